-- Remembers of how many streams a stream is made, the first time that somebody says so.
--
-- KEYS  shards
-- ARGV  number of streams, the field that says which a message is in
-- Gives the number and the field that are remembered.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'count', ARGV[1], 'field', ARGV[2])
end
return { redis.call('HGET', KEYS[1], 'count'), redis.call('HGET', KEYS[1], 'field') }
