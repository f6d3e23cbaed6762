-- Takes over entries from the consumer that is thought to hold them.
--
-- KEYS  stream, failures, waiting
-- ARGV  group, new consumer, consumer that must hold them now, the waiting consumer, ids…
-- Gives two lists: the entries taken, each as {id, fields, recorded failures or ''},
-- and the ids whose bodies were trimmed; those stay pending, to be buried.
--
-- An entry that someone else has taken or settled meanwhile is left alone; it no longer waits.
local group, taker, holder, waiting = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local taken, trimmed = {}, {}

local function forget(id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('HDEL', KEYS[2], id)
end

local function take(id)
  if #redis.call('XRANGE', KEYS[1], id, id) == 0 then
    trimmed[#trimmed + 1] = id
    return
  end
  local entry = redis.call('XCLAIM', KEYS[1], group, taker, 0, id)[1]
  redis.call('ZREM', KEYS[3], id)
  taken[#taken + 1] = { id, entry[2], redis.call('HGET', KEYS[2], id) or '' }
end

for at = 5, #ARGV do
  local id = ARGV[at]
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if not pending then
    forget(id)
  elseif pending[2] == holder then
    take(id)
  elseif pending[2] ~= waiting then
    redis.call('ZREM', KEYS[3], id)
  end
end
return { taken, trimmed }
