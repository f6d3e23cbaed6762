-- Takes over what is pending in a group, whoever holds it, for whoever has the lease on the stream.
--
-- KEYS  stream, waiting, lease
-- ARGV  group, tenure, the waiting consumer, where to begin, entries to look at, the field of the key
-- Gives for each entry, the oldest first, three values:
--   its id
--   `held` (it is the tenure's now), `waiting` (it waits for another attempt, and still does) or
--   `trimmed` (its body is gone; left as it is, to be buried)
--   the value of the field, '' without it
-- or 0 if the tenure is over: then nothing was done.
--
-- One that waits without a time, as if the sorted set had been deleted, is taken over as well.
local group, tenure, waiting, field = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
if redis.call('GET', KEYS[3]) ~= tenure then return 0 end

local function first(values)
  for at = 1, #values, 2 do
    if values[at] == field then return values[at + 1] end
  end
  return ''
end

local function inherit(id, holder)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then return 'trimmed', '' end
  local key = first(entry[2])
  if holder == waiting and redis.call('ZSCORE', KEYS[2], id) then return 'waiting', key end
  if holder ~= tenure then redis.call('XCLAIM', KEYS[1], group, tenure, 0, id, 'JUSTID') end
  return 'held', key
end

local rows = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], group, ARGV[4], '+', ARGV[5])) do
  local state, key = inherit(pending[1], pending[2])
  rows[#rows + 1] = pending[1]
  rows[#rows + 1] = state
  rows[#rows + 1] = key
end
return rows
