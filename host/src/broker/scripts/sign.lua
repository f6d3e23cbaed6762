-- Puts up, or renews, a host's sign of life under a name, unless the name is another's.
--
-- KEYS  the name's live key, hosts
-- ARGV  the name, sign, its life in milliseconds, token, the exact sign of a host seen to be dead or ''
-- Gives
--   1       held; nobody left anything under this name
--   2       held; this host or one before it had the name, and never said that it leaves
--   a text  the sign of the host that has the name: nothing was done
--
-- A sign is this host's if its token is in it; no other process has the same.
local odd = odd_key({ [KEYS[1]] = 'string', [KEYS[2]] = 'set' })
if odd then return odd end
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[5] and not string.find(there, ARGV[4], 1, true) then return there end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 2 - redis.call('SADD', KEYS[2], ARGV[1])
