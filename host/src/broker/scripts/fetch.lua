-- Fetches entries whose turn has come, for whoever has the lease on the stream; takes back those that waited.
--
-- KEYS  stream, failures, waiting, lease
-- ARGV  group, tenure, the waiting consumer, ids…
-- Gives two lists: the entries, each as {id, fields, recorded failures or ''}, and the
-- ids whose bodies were trimmed; those stay pending, to be buried. An entry in neither
-- is not pending any more, or someone else has taken it.
-- Gives 0 if the tenure is over: then nothing was done.
local group, tenure, waiting = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', KEYS[4]) ~= tenure then return 0 end
local fetched, trimmed = {}, {}

local function fetch(id, holder)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then
    trimmed[#trimmed + 1] = id
    return
  end
  if holder == waiting then
    redis.call('XCLAIM', KEYS[1], group, tenure, 0, id, 'JUSTID')
    redis.call('ZREM', KEYS[3], id)
  end
  fetched[#fetched + 1] = { id, entry[2], redis.call('HGET', KEYS[2], id) or '' }
end

for at = 4, #ARGV do
  local id = ARGV[at]
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if not pending then
    redis.call('ZREM', KEYS[3], id)
    redis.call('HDEL', KEYS[2], id)
  elseif pending[2] == tenure or pending[2] == waiting then
    fetch(id, pending[2])
  end
end
return { fetched, trimmed }
