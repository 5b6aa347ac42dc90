-- Sliding windows of attempts to get in. KEYS: one sorted set per counter. ARGV[1]: the name of
-- this attempt; then for each key how many it allows and its window in ms.
-- Counts in all of them and returns 0, or in none and returns the ms until there may be another.
-- Time is Redis's.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local wait = 0
for i, key in ipairs(KEYS) do
    local allowed, window = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window)
    local first = redis.call('ZRANGE', key, -allowed, -allowed, 'WITHSCORES')
    if first[2] then
        wait = math.max(wait, tonumber(first[2]) + window - now)
    end
end
if wait > 0 then
    return wait
end
for i, key in ipairs(KEYS) do
    redis.call('ZADD', key, now, ARGV[1])
    redis.call('PEXPIRE', key, ARGV[2 * i + 1])
end
return 0
