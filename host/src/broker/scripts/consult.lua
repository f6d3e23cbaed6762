-- Reads a hash, or one field of it, if that is of no more bytes than are allowed for.
--
-- KEYS  hash
-- ARGV  bytes, and the field if it is one
-- Gives the field's value, nil for one that is not there; or field, value, … of all; or
--   a number  the bytes that it is of, as these are too many: nothing is sent
--
-- Fails with WRONGTYPE where the key is no hash.
local most = tonumber(ARGV[1])
if ARGV[2] then
  local bytes = redis.call('HSTRLEN', KEYS[1], ARGV[2])
  if bytes > most then return bytes end
  return redis.call('HGET', KEYS[1], ARGV[2])
end
-- Counted before it is read: a hash may be of any size.
local count, bytes = redis.call('HLEN', KEYS[1]), 0
if count > most then return count end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  bytes = bytes + #name + redis.call('HSTRLEN', KEYS[1], name)
  if bytes > most then return bytes end
end
return redis.call('HGETALL', KEYS[1])
