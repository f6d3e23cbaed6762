-- Writes the outputs of handled entries and acknowledges them: for each entry all of it, or nothing.
--
-- KEYS  stream, failures, output keys… (streams, and sets of what is delayed for a stream),
--       keys that remember values…
-- ARGV  group, consumer, command to acknowledge by (XACK, or XACKDEL to remove the entry from the stream
--       where every group has acknowledged it), milliseconds to remember values for (0 for none),
--       then for each entry:
--         id, and where values are remembered: the place of its key from the end (0 for none),
--         number of outputs, then for each output:
--           index of its key among the output keys (from 1), milliseconds to wait (0 where the key
--           is a stream), number of values, field, value, …
-- Gives for each entry
--   1  written, remembered and acknowledged
--   2  likewise, but the server does not know XACKDEL: the entry stays on the stream
--   3  another with its value was handled meanwhile: acknowledged, nothing was written
--   0  no longer pending: it was settled before, so nothing was written
--  -1  pending for another consumer: nothing was written
--   a text: the output key of that name is a key of another type; nothing was written
--
-- A server that is out of memory refuses the first write of the script, before anything is done.
local group, consumer, how, window = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local at = 5
local answers = {}

local function take()
  at = at + 1
  return ARGV[at - 1]
end

local function read_memory()
  local place = window > 0 and tonumber(take()) or 0
  return place > 0 and KEYS[#KEYS + 1 - place] or nil
end

local function read_outputs()
  local outputs = {}
  for n = 1, tonumber(take()) do
    local key = KEYS[2 + tonumber(take())]
    local wait = tonumber(take())
    local values = tonumber(take())
    outputs[n] = { key = key, wait = wait, from = at, to = at + values - 1 }
    at = at + values
  end
  return outputs
end

local function of_another_type(outputs)
  for _, output in ipairs(outputs) do
    local kind = redis.call('TYPE', output.key)['ok']
    local expected = output.wait > 0 and 'zset' or 'stream'
    if kind ~= expected and kind ~= 'none' then return output.key end
  end
end

local function write(output)
  if output.wait > 0 then return hold(output.key, output.wait, output.from, output.to) end
  redis.call('XADD', output.key, '*', unpack(ARGV, output.from, output.to))
end

local function repeats(memory, id)
  local handled = redis.pcall('GET', memory)
  return type(handled) == 'string' and handled ~= id
end

-- Never fails for want of XACKDEL: by then outputs are written.
local function acknowledge(id)
  redis.call('HDEL', KEYS[2], id)
  if how == 'XACKDEL' then
    local done = redis.pcall('XACKDEL', KEYS[1], group, 'ACKED', 'IDS', 1, id)
    if not done.err then return 1 end
  end
  redis.call('XACK', KEYS[1], group, id)
  return how == 'XACKDEL' and 2 or 1
end

local function settle(id, memory, outputs)
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if not pending then return 0 end
  if pending[2] ~= consumer then return -1 end
  if memory and repeats(memory, id) then
    acknowledge(id)
    return 3
  end
  local refused = of_another_type(outputs)
  if refused then return refused end
  for _, output in ipairs(outputs) do write(output) end
  if memory then redis.call('SET', memory, id, 'PX', window) end
  return acknowledge(id)
end


-- Refuses everything where what follows the first write would be refused: a script that fails behind
-- that has written, and would write again each time. (`redis.acl_check_cmd` is there since 7.0.)
local function objection()
  local odd = odd_key({ [KEYS[2]] = 'hash' })
  if odd then return odd end
  local may = redis.acl_check_cmd
  if may and not (may('XACK', KEYS[1], group, '0-0') and may('HDEL', KEYS[2], '')) then
    return redis.error_reply('NOPERM this user may write outputs, but not acknowledge with XACK and HDEL')
  end
end

local refused = objection()
if refused then return refused end
while at <= #ARGV do
  local id = take()
  local memory = read_memory()
  answers[#answers + 1] = settle(id, memory, read_outputs())
end
return answers
