-- What scripts begin with that write entries to be delayed, or take them out again: how one is kept.
--
-- A delayed entry is a member of a sorted set, its score the time it is due (ms, the server's clock).
-- The member begins with when it was written and a number, so that entries due at the same time
-- keep their order and equal ones stay apart; then come its values, any bytes, in order.
--
-- KEYS  none of its own
-- ARGV  none of its own; `hold` takes values from where its caller says
-- Gives the functions `hold` and `held`, and `now`
local HEAD = '%016.0f-%06d '
local HEAD_BYTES = 24

local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local count = 0

-- Puts the values ARGV[from] to ARGV[to] into a set, to be due after `wait` milliseconds.
local function hold(set, wait, from, to)
  local values = cmsgpack.pack({ unpack(ARGV, from, to) })
  local due = string.format('%.0f', now + wait)
  repeat
    count = count + 1
    local member = string.format(HEAD, micros, count) .. values
  until redis.call('ZADD', set, 'NX', due, member) == 1
end

-- The values that a member holds.
local function held(member)
  return cmsgpack.unpack(string.sub(member, HEAD_BYTES + 1))
end
