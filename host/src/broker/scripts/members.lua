-- Shows a host to be alive among those that share an ordered stream, and tells who else is.
--
-- KEYS  members
-- ARGV  name, milliseconds after which a silent host counts as dead
-- Gives the names of the live hosts.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - ARGV[2]))
return redis.call('ZRANGE', KEYS[1], 0, -1)
