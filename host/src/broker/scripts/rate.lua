-- Grants tokens from a bucket that fills at a handler's rate: over any time, all hosts together get no
-- more than its burst and what the rate yields in that time.
--
-- KEYS  bucket
-- ARGV  tokens in each period, milliseconds of a period, burst, tokens wanted at most, at least,
--         tokens given back unused, milliseconds ahead that tokens may be granted
-- Gives {granted, microseconds}: how long to wait before they are used or, where none is granted, until
-- as many as were wanted at least are there
--
-- A bucket that is missing is full. Tokens granted ahead of their time leave it owing; others wait behind them.
local per, burst = tonumber(ARGV[1]) / (tonumber(ARGV[2]) * 1000), tonumber(ARGV[3])
local most, least, unused = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local ahead = tonumber(ARGV[7]) * 1000

local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'hash' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is not the hash that a rate is kept in; delete it')
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local tokens, at = redis.call('HGET', KEYS[1], 'tokens'), redis.call('HGET', KEYS[1], 'at')
tokens, at = tonumber(tokens or burst) or burst, tonumber(at or now) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * per + unused)

local granted, wait = 0, 0
if tokens >= least then
  granted = math.min(most, math.floor(tokens))
else
  wait = math.ceil((least - tokens) / per)
  if wait <= ahead then granted = least end
end
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.0f', now))
-- Once it is full, it need not be kept.
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 1000 + (burst - tokens) / per / 1000))
return { granted, wait }
