-- Lets failed entries wait for their next attempt: they stay pending, under a name that no host has.
--
-- KEYS  stream, failures, waiting
-- ARGV  group, consumer, the waiting consumer, then for each entry:
--         id, failures so far, milliseconds to wait, error
-- Gives for each entry
--   1  it waits
--   0  no longer pending, so there is nothing to wait for
--  -1  pending for another consumer: left alone
--  -2  its body was trimmed from the stream: left pending, for its holder to bury
--
-- Failures are set, not added to: the same call sent twice counts once. None leave no mark.
local group, consumer, waiting = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function park(id, failures, delay, err)
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if not pending then return 0 end
  -- The answer to the same call was lost.
  if pending[2] == waiting then return 1 end
  if pending[2] ~= consumer then return -1 end
  if #redis.call('XRANGE', KEYS[1], id, id) == 0 then return -2 end
  if failures ~= '0' then redis.call('HSET', KEYS[2], id, failures .. ' ' .. err) end
  redis.call('ZADD', KEYS[3], string.format('%.0f', now + delay), id)
  redis.call('XCLAIM', KEYS[1], group, waiting, 0, id, 'JUSTID')
  return 1
end

local odd = odd_key({ [KEYS[2]] = 'hash', [KEYS[3]] = 'zset' })
if odd then return odd end
local answers = {}
for at = 4, #ARGV, 4 do
  answers[#answers + 1] = park(ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3])
end
return answers
