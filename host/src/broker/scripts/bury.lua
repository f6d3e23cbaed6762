-- Moves an entry to the dead-letter stream and acknowledges it: both, or nothing.
--
-- KEYS  stream, failures, waiting, dead-letter stream
-- ARGV  group, consumer ('' for whichever holds it), id, field, value, …
-- Gives
--   1  buried
--   0  no longer pending: it was settled before, so nothing was written
--  -1  pending for another consumer: nothing was written
local group, consumer, id = ARGV[1], ARGV[2], ARGV[3]
local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
if not pending then return 0 end
if consumer ~= '' and pending[2] ~= consumer then return -1 end
redis.call('XADD', KEYS[4], '*', unpack(ARGV, 4))
redis.call('HDEL', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
redis.call('XACK', KEYS[1], group, id)
return 1
