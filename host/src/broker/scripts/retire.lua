-- Removes a consumer that holds nothing, from a group in which it has been idle.
--
-- KEYS  stream
-- ARGV  group, consumer, idle milliseconds at least
-- Gives 1 if it is gone, 0 if it must stay.
--
-- XGROUP DELCONSUMER forgets what a consumer still holds, so the check and the
-- removal are one step.
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for at = 1, #row, 2 do consumer[row[at]] = row[at + 1] end
  if consumer['name'] == ARGV[2] then
    if consumer['pending'] > 0 or consumer['idle'] < tonumber(ARGV[3]) then return 0 end
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    return 1
  end
end
return 1
