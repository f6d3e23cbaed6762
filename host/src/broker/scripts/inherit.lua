-- Takes over what is pending in a group, whoever holds it, for whoever has the lease on the stream.
--
-- KEYS  stream, waiting, lease, deaths, suspects
-- ARGV  group, tenure, the waiting consumer, where to begin, entries to look at, the field of the key,
--       how many tenures' hosts died, these tenures, then those whose hosts may have died
-- Gives for each entry, the oldest first, three values:
--   its id
--   `held`       it is the tenure's now
--   `waiting`    it waits for another attempt, and still does
--   `trimmed`    its body is gone; left as it is, to be buried
--   `suspect`    first of its key, it may have been in flight when its host died, or it is to run
--                alone again, as also one that the tenure put to that and that did not get to it; left
--                with whose it is until it is fetched
--   `doubted`    it ran alone, and it is not known yet whether its host died, or the one before; left
--                with that tenure
--   `condemned`  its host died while it ran alone, after another had; left as it is, to be buried
--   the value of the field, '' without it
-- or 0 if the tenure is over: then nothing was done.
--
-- Who holds an entry had it last. So what a dead host's tenure holds stays there: whoever owns the
-- stream next, should this owner die as well, still sees under whom it was in flight.
-- Among the deaths it is noted how an entry runs that was put to run alone:
--   1  first in its host, or after its host had died with it alone
--   2  not any more: its host died in that, and it is to be buried
--   3  after others in the same host
--   4  not yet again: its host died in that; the next time is the last
-- A host that is killed for another reason, again and again, dies in the turn of whoever has it then, and
-- who had others before it need not be to blame. The suspects say since which tenure an entry is one. If
-- that turns out to have outlived its lease, the next death is the first.
-- One that waits without a time, as if the sorted set had been deleted, is taken over as well.
local group, tenure, waiting, field = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
local odd = odd_key({ [KEYS[2]] = 'zset', [KEYS[3]] = 'string', [KEYS[4]] = 'hash', [KEYS[5]] = 'hash' })
if odd then return odd end
if redis.call('GET', KEYS[3]) ~= tenure then return 0 end

local fates = {}
for at = 8, #ARGV do fates[ARGV[at]] = at - 8 < tonumber(ARGV[7]) and 'died' or 'unknown' end

local function first(values)
  for at = 1, #values, 2 do
    if values[at] == field then return values[at + 1] end
  end
  return ''
end

local function judge(id, holder)
  local deaths = tonumber(redis.call('HGET', KEYS[4], id) or 0)
  if deaths == 2 then return 'condemned' end
  if holder == tenure then return deaths > 0 and 'suspect' or 'held' end
  local fate = fates[holder]
  if deaths == 0 then return fate and 'suspect' or 'held' end
  if not fate or deaths == 4 then return 'suspect' end
  if fate == 'unknown' then return 'doubted' end
  if deaths == 3 then
    redis.call('HSET', KEYS[4], id, 4)
    redis.call('HSET', KEYS[5], id, holder)
    return 'suspect'
  end
  local since = redis.call('HGET', KEYS[5], id)
  local first = not since and 'died' or fates[since]
  if first == 'unknown' then return 'doubted' end
  if first == 'died' then
    redis.call('HSET', KEYS[4], id, 2)
    return 'condemned'
  end
  redis.call('HSET', KEYS[4], id, 4)
  redis.call('HSET', KEYS[5], id, holder)
  return 'suspect'
end

local function inherit(id, holder)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then return 'trimmed', '' end
  local key = first(entry[2])
  if holder == waiting and redis.call('ZSCORE', KEYS[2], id) then return 'waiting', key end
  local state = judge(id, holder)
  if state == 'held' and holder ~= tenure then
    redis.call('XCLAIM', KEYS[1], group, tenure, 0, id, 'JUSTID')
  end
  return state, key
end

local rows = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], group, ARGV[4], '+', ARGV[5])) do
  local state, key = inherit(pending[1], pending[2])
  rows[#rows + 1] = pending[1]
  rows[#rows + 1] = state
  rows[#rows + 1] = key
end
return rows
