-- Sets a key, if its value still is what it was.
--
-- KEYS  key
-- ARGV  1 if there was a value, 0 if the key was not there; that value, or anything; the new one
-- Gives 1 if it is set, 0 if it was another by now
--
-- Fails with WRONGTYPE where the key is no string.
local value = redis.call('GET', KEYS[1])
local same = value == (ARGV[1] == '1' and ARGV[2])
if not same then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
return 1
