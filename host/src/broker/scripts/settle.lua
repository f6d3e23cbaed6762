-- Writes the outputs of handled entries and acknowledges them: for each entry all of it, or nothing.
--
-- KEYS  stream, failures, output streams…
-- ARGV  group, consumer, then for each entry:
--         id, number of outputs, then for each output:
--           index of its stream among the output streams (from 1), number of values, field, value, …
-- Gives for each entry
--   1  written and acknowledged
--   0  no longer pending: it was settled before, so nothing was written
--  -1  pending for another consumer: nothing was written
--   a text: the output stream of that name is a key of another type; nothing was written
--
-- A server that is out of memory refuses the first write of the script, before anything is done.
local group, consumer = ARGV[1], ARGV[2]
local at = 3
local answers = {}

local function take()
  at = at + 1
  return ARGV[at - 1]
end

local function read_outputs()
  local outputs = {}
  for n = 1, tonumber(take()) do
    local key = KEYS[2 + tonumber(take())]
    local values = tonumber(take())
    outputs[n] = { key = key, from = at, to = at + values - 1 }
    at = at + values
  end
  return outputs
end

local function not_a_stream(outputs)
  for _, output in ipairs(outputs) do
    local kind = redis.call('TYPE', output.key)['ok']
    if kind ~= 'stream' and kind ~= 'none' then return output.key end
  end
end

local function settle(id, outputs)
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if not pending then return 0 end
  if pending[2] ~= consumer then return -1 end
  local refused = not_a_stream(outputs)
  if refused then return refused end
  for _, output in ipairs(outputs) do
    redis.call('XADD', output.key, '*', unpack(ARGV, output.from, output.to))
  end
  redis.call('HDEL', KEYS[2], id)
  return redis.call('XACK', KEYS[1], group, id)
end

while at <= #ARGV do
  local id = take()
  answers[#answers + 1] = settle(id, read_outputs())
end
return answers
