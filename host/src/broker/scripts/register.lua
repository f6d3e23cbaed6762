-- Notes streams as having delayed entries, before such an entry is written.
--
-- KEYS  sorted set of streams with delayed entries
-- ARGV  streams…
-- Gives how many of them were not known.
--
-- The score is the time of the note by the server's clock: it shows that there is news, and
-- forget.lua leaves alone what was noted since it was looked at.
local odd = odd_key({ [KEYS[1]] = 'zset' })
if odd then return odd end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local known = redis.call('ZCARD', KEYS[1])
for _, stream in ipairs(ARGV) do redis.call('ZADD', KEYS[1], now, stream) end
return redis.call('ZCARD', KEYS[1]) - known
