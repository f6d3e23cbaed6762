-- Reads the values of keys, if they are of no more bytes together than are allowed for.
--
-- KEYS  keys…
-- ARGV  bytes
-- Gives the values in the order of the keys, nil for one that is not there; or
--   a number  the bytes that they are of, as these are too many: none is sent
--
-- Fails with WRONGTYPE where a key is no string.
local bytes = 0
for _, key in ipairs(KEYS) do bytes = bytes + redis.call('STRLEN', key) end
if bytes > tonumber(ARGV[1]) then return bytes end
local values = {}
for n, key in ipairs(KEYS) do values[n] = redis.call('GET', key) end
return values
