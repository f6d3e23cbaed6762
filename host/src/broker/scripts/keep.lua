-- Sets keys, all or none.
--
-- KEYS  keys…
-- ARGV  their values, in the same order
-- Gives 1
--
-- Fails with WRONGTYPE, before anything is written, where a key is no string: SET would replace a
-- stream or a hash. A server that is out of memory refuses the first write.
for _, key in ipairs(KEYS) do redis.call('STRLEN', key) end
for n, key in ipairs(KEYS) do redis.call('SET', key, ARGV[n]) end
return 1
