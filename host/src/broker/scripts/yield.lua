-- Gives up the lease on a stream.
--
-- KEYS  lease
-- ARGV  tenure
-- Gives 1, or 0 if that tenure was over already.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
