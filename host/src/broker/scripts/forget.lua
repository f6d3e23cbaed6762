-- Forgets a stream that was seen to have no delayed entries, unless it was noted again.
--
-- KEYS  sorted set of streams with delayed entries
-- ARGV  stream, the score it had when it was looked at, milliseconds since then at least
-- Gives 1 if it is forgotten, 0 if it must stay.
--
-- Whoever writes a delayed entry notes its stream first, and may take a while until it writes.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local noted = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or now)
if noted ~= tonumber(ARGV[2]) or now - noted < tonumber(ARGV[3]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
