-- Gives up a tenure of a stream, and the lease on it, if that has not run out.
--
-- KEYS  lease, tenures
-- ARGV  tenure
-- Gives 1, or 0 if another had the lease already.
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
