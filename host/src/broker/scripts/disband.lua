-- Removes the group of a host that has shown no life for long, from a stream that every host reads.
--
-- KEYS  stream, hash of hosts by when each was last seen, the group's waiting and failures, the host's live key,
--       the group's deaths
-- ARGV  group, host, milliseconds without a sign of life at least
-- Gives how many entries were pending in it, or -1 if it must stay.
--
-- What was pending is forgotten with the group, so the check and the removal are one step.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seen = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or now)
if now - seen < tonumber(ARGV[3]) or redis.call('EXISTS', KEYS[5]) == 1 then return -1 end

local pending = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  local summary = redis.pcall('XPENDING', KEYS[1], ARGV[1])
  if not summary.err then pending = summary[1] end
  redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
end
redis.call('DEL', KEYS[3], KEYS[4], KEYS[6])
redis.call('HDEL', KEYS[2], ARGV[2])
return pending
