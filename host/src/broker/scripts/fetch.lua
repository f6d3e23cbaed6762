-- Fetches entries whose turn has come, for whoever has the lease on the stream, and whoever holds them.
--
-- KEYS  stream, failures, waiting, lease, deaths, suspects
-- ARGV  group, tenure, the waiting consumer, terms, ids…
-- Terms
--   'crowd'  entries that run beside others: what was counted against them is forgotten
--   'alone'  entries that run alone: that is noted (`inherit.lua` says how), and under whom they were in
--            flight before, for whoever finds them when their host has died
--   'first'  likewise, the first that runs alone in its host
--   'dead'   entries that are to be buried
-- Gives three lists: the entries, each as {id, fields, recorded failures or ''}; the ids whose
-- bodies were trimmed, which stay pending, to be buried; and those that are condemned, which are
-- left as they are and run on no terms. An entry in none of them is not pending any more.
-- Gives 0 if the tenure is over: then nothing was done.
local group, tenure, waiting, terms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- Before anything is written: half a note would condemn whom nobody had tried.
local own = { [KEYS[2]] = 'hash', [KEYS[3]] = 'zset', [KEYS[4]] = 'string', [KEYS[5]] = 'hash', [KEYS[6]] = 'hash' }
local odd = odd_key(own)
if odd then return odd end
if redis.call('GET', KEYS[4]) ~= tenure then return 0 end
local fetched, trimmed, condemned = {}, {}, {}

local function note(id, holder)
  local before = redis.call('HGET', KEYS[5], id)
  local last = terms == 'first' or before == '1' or before == '4'
  redis.call('HSET', KEYS[5], id, last and 1 or 3)
  if not before then redis.call('HSET', KEYS[6], id, holder) end
end

local function fetch(id, holder)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then
    trimmed[#trimmed + 1] = id
    return
  end
  -- Also one that waits, as its dead letter was refused.
  if terms ~= 'dead' and redis.call('HGET', KEYS[5], id) == '2' then
    condemned[#condemned + 1] = id
    return
  end
  if holder ~= tenure then redis.call('XCLAIM', KEYS[1], group, tenure, 0, id, 'JUSTID') end
  if holder == waiting then redis.call('ZREM', KEYS[3], id) end
  if terms == 'crowd' then redis.call('HDEL', KEYS[5], id) end
  if terms == 'alone' or terms == 'first' then note(id, holder) end
  fetched[#fetched + 1] = { id, entry[2], redis.call('HGET', KEYS[2], id) or '' }
end

for at = 5, #ARGV do
  local id = ARGV[at]
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if pending then
    fetch(id, pending[2])
  else
    redis.call('ZREM', KEYS[3], id)
    redis.call('HDEL', KEYS[2], id)
  end
end
return { fetched, trimmed, condemned }
