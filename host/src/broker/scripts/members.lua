-- Shows a host to be alive among those that share an ordered stream, and tells who else is.
--
-- KEYS  members
-- ARGV  name, milliseconds after which a silent host counts as dead
-- Gives how many milliseconds are left until one of the live hosts counts as dead, unless it shows itself
-- again; then their names.
local odd = odd_key({ [KEYS[1]] = 'zset' })
if odd then return odd end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - ARGV[2]))
local told = redis.call('ZRANGE', KEYS[1], 0, -1)
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
-- What has been silent for that long is still alive: it is dead a moment later.
table.insert(told, 1, oldest + ARGV[2] - now + 1)
return told
