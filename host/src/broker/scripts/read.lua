-- Reads new entries for whoever has the lease on the stream.
--
-- KEYS  stream, lease
-- ARGV  group, tenure, entries at most
-- Gives what XREADGROUP does, or
--   0  the tenure is over: nothing was read
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
return redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
