-- Acknowledges entries that repeat one that was handled, before anyone sees them.
--
-- KEYS  stream, failures, then for each entry the key that remembers its value
-- ARGV  group, consumer, then for each entry its id
-- Gives for each entry
--   1  it is a repeat, and acknowledged
--   0  it is none, or no longer this consumer's
--
-- A key holds the id of the entry that was handled: no entry repeats itself.
local group, consumer = ARGV[1], ARGV[2]

local function repeats(memory, id)
  local handled = redis.pcall('GET', memory)
  return type(handled) == 'string' and handled ~= id
end

local answers = {}
for at = 3, #ARGV do
  local id, status = ARGV[at], 0
  if repeats(KEYS[at], id) then
    local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
    if pending and pending[2] == consumer then
      redis.call('HDEL', KEYS[2], id)
      status = redis.call('XACK', KEYS[1], group, id)
    end
  end
  answers[#answers + 1] = status
end
return answers
