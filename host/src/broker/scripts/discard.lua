-- Removes keys, all or none; those that are not there are passed over.
--
-- KEYS  keys…
-- ARGV  none
-- Gives how many there were
--
-- Fails with WRONGTYPE, before anything is removed, where a key is no string.
for _, key in ipairs(KEYS) do redis.call('STRLEN', key) end
local found = 0
for _, key in ipairs(KEYS) do found = found + redis.call('DEL', key) end
return found
