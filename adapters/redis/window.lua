-- Sliding 60 s windows of one account: requests, requests per model, tokens.
-- KEYS[1] sorted set of members "id|model|tokens|requests" by time, KEYS[2] hash of running sums.
-- ARGV[1]: "id|model|tokens|rpm|model rpm|tpm|tokens given back|1 to count or 0 to peek":
-- one argument, because packing eight costs the caller more than splitting one costs here.
-- Returns limited_by, requests, model requests, tokens, retry_after_ms, reset_ms. Time is Redis's.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local window = 60000
local id, model, tokens, rpm, model_rpm, tpm, back, count = string.match(
    ARGV[1], '^([^|]*)|([^|]*)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d)$')
tokens, rpm, model_rpm = tonumber(tokens), tonumber(rpm), tonumber(model_rpm)
tpm, back, count = tonumber(tpm), tonumber(back), count == '1'

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
if back > 0 then
    back = math.min(back, math.max(used, 0))
    if back > 0 then
        redis.call('ZADD', KEYS[1], now, id .. 'b||' .. string.format('%d', -back) .. '|0')
        used = redis.call('HINCRBY', KEYS[2], 't', -back)
    end
end

local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local reset = first[2] and math.max(0, tonumber(first[2]) + window - now) or 0
if not count then
    return {'', requests, of_model, used, 0, reset}
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
    return {'', requests + 1, of_model + 1, used + tokens, 0, math.max(reset, 1)}
end

-- Walk from the oldest until enough has left the window: that is when to come back.
local excess = limited == 'tokens' and used + tokens - tpm or 1
local retry = window
for _, pair in ipairs({redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}) do
    for i = 1, #pair, 2 do
        local m, n, r = string.match(pair[i], '^[^|]*|([^|]*)|(-?%d+)|(%d)$')
        if limited == 'tokens' then excess = excess - tonumber(n)
        elseif r == '1' and (limited == 'requests' or m == model) then excess = excess - 1 end
        if excess <= 0 then
            retry = tonumber(pair[i + 1]) + window - now
            break
        end
    end
end
return {limited, requests, of_model, used, math.max(1, retry), math.max(reset, 1)}
