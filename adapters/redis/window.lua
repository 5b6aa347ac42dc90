-- Sliding 60 s windows of one account: requests, requests per model, tokens.
-- KEYS[1] sorted set of members "id|model|tokens|requests" by time, KEYS[2] hash of running sums.
-- ARGV[1]: "id|model|tokens|rpm|model rpm|tpm|corrections|0 to peek, 1 to count, 2 to correct":
-- one argument, because packing eight costs the caller more than splitting one costs here.
-- A correction is "ms:tokens": it counts from, and leaves the window with, the request of that ms.
-- Returns limited_by, requests, model requests, tokens, retry_after_ms, reset_ms, counted_at_ms
-- (0 if nothing was counted), and nothing at all to who only corrects. Time is Redis's.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local window = 60000
local id, model, tokens, rpm, model_rpm, tpm, corrections, kind = string.match(
    ARGV[1], '^([^|]*)|([^|]*)|(%d+)|(%d+)|(%d+)|(%d+)|([^|]*)|(%d)$')

local turn = 0
for at, more in string.gmatch(corrections, '(%d+):(-?%d+)') do
    turn = turn + 1
    if tonumber(at) > now - window then
        redis.call('ZADD', KEYS[1], at, id .. 'c' .. turn .. '||' .. more .. '|0')
        redis.call('HINCRBY', KEYS[2], 't', more)
    end
end
if kind == '2' then
    return
end

tokens, rpm, model_rpm = tonumber(tokens), tonumber(rpm), tonumber(model_rpm)
tpm = tonumber(tpm)

local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - window)
if #old > 0 then
    for _, member in ipairs(old) do
        local m, n, r = string.match(member, '^[^|]*|([^|]*)|(-?%d+)|(%d)$')
        redis.call('HINCRBY', KEYS[2], 't', -tonumber(n))
        if r == '1' then
            redis.call('HINCRBY', KEYS[2], 'r', -1)
            if redis.call('HINCRBY', KEYS[2], 'm:' .. m, -1) <= 0 then
                redis.call('HDEL', KEYS[2], 'm:' .. m)
            end
        end
    end
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
end

local sums = redis.call('HMGET', KEYS[2], 'r', 'm:' .. model, 't')
local requests, of_model = tonumber(sums[1] or 0), tonumber(sums[2] or 0)
local used = tonumber(sums[3] or 0)
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local reset = first[2] and math.max(1, tonumber(first[2]) + window - now) or window
if kind == '0' then
    return {'', requests, of_model, used, 0, first[2] and reset or 0, 0}
end

local limited = ''
if requests + 1 > rpm then limited = 'requests'
elseif of_model + 1 > model_rpm then limited = 'model_requests'
elseif used + tokens > tpm then limited = 'tokens' end

if limited == '' then
    redis.call('ZADD', KEYS[1], now, id .. '|' .. model .. '|' .. string.format('%d', tokens) .. '|1')
    redis.call('HINCRBY', KEYS[2], 'r', 1)
    redis.call('HINCRBY', KEYS[2], 'm:' .. model, 1)
    redis.call('HINCRBY', KEYS[2], 't', tokens)
    redis.call('PEXPIRE', KEYS[1], window + 1000)
    redis.call('PEXPIRE', KEYS[2], window + 1000)
    return {'', requests + 1, of_model + 1, used + tokens, 0, reset, now}
end

-- For each limit that is exceeded walk from the oldest until enough has left the window: the
-- latest of these moments is when to come back.
local over = {
    requests = requests + 1 - rpm,
    model_requests = of_model + 1 - model_rpm,
    tokens = used + tokens - tpm,
}
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local retry = 1
for limit, excess in pairs(over) do
    if excess > 0 then
        local wait = window
        for i = 1, #members, 2 do
            local m, n, r = string.match(members[i], '^[^|]*|([^|]*)|(-?%d+)|(%d)$')
            if limit == 'tokens' then excess = excess - tonumber(n)
            elseif r == '1' and (limit == 'requests' or m == model) then excess = excess - 1 end
            if excess <= 0 then
                wait = tonumber(members[i + 1]) + window - now
                break
            end
        end
        retry = math.max(retry, wait)
    end
end
return {limited, requests, of_model, used, retry, reset, 0}
