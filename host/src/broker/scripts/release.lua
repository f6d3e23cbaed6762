-- Makes entries that wait for another attempt due now.
--
-- KEYS  stream, waiting
-- ARGV  group, the waiting consumer, ids…
-- Gives for each id
--   1  due now
--   0  not pending: it was settled, or never read
--  -1  in hand: a consumer has it, so there is nothing to wait for
local group, waiting = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))

local function release(id)
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if not pending then return 0 end
  if pending[2] ~= waiting then return -1 end
  redis.call('ZADD', KEYS[2], now, id)
  return 1
end

local answers = {}
for at = 3, #ARGV do
  answers[#answers + 1] = release(ARGV[at])
end
return answers
