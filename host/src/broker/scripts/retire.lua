-- Removes a consumer that holds nothing, and what is known of it as a host.
--
-- KEYS  stream, the consumer's live key, hosts
-- ARGV  group, consumer, idle milliseconds at least
-- Gives 1 if it is gone, 0 if it must stay.
--
-- XGROUP DELCONSUMER forgets what a consumer still holds, so the check and the
-- removal are one step.
local function idle()
  for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local consumer = {}
    for at = 1, #row, 2 do consumer[row[at]] = row[at + 1] end
    if consumer['name'] == ARGV[2] then return consumer['idle'] end
  end
  return tonumber(ARGV[3])
end

if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
if tonumber(ARGV[3]) > 0 and idle() < tonumber(ARGV[3]) then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
redis.call('SREM', KEYS[3], ARGV[2])
return 1
