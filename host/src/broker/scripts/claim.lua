-- Takes over entries from the consumer that is thought to hold them.
--
-- KEYS  stream, failures, waiting, deaths
-- ARGV  group, new consumer, consumer that must hold them now, the waiting consumer,
--       terms, bytes at most, ids…
-- Terms
--   'crowd'     entries that may run beside others: suspects are only named
--   'alone'     entries that run alone: suspects too
--   'again'     as 'died', where an earlier claim may have been carried out: a trial that is noted stays
--   'died'      as 'alone', of a host that died with them
--   'first'     likewise, the first that the taker runs alone
--   'together'  of a host that died with them, to run with others of their kind: suspects are only named
-- Gives four lists and a number: the entries taken, each as {id, fields, recorded failures
-- or '', trial}; the ids whose bodies were trimmed, which stay pending, to be buried; the
-- suspects that were left; and how many of the ids were looked at: the rest is left for
-- another call, once the entries taken have so many bytes.
--
-- A suspect is an entry with a trial noted: it was in flight when its host died, and is put to
-- run apart from others. The trial says how it runs since:
--   1  together with other suspects
--   2  alone, after others in the same host
--   3  alone, and first in its host, or for the second time
--   4  not any more: its host died in a trial of 3, and it is to be buried
-- A host that is killed for another reason, again and again, dies in the trial of whoever has its turn then;
-- so that alone does not condemn: who was not first is first next time.
-- An entry that someone else has taken or settled meanwhile is left alone; it no longer waits.
local group, taker, holder, waiting = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local terms, budget = ARGV[5], tonumber(ARGV[6])
local taken, trimmed, suspects = {}, {}, {}
local bytes, seen = 0, 0

local function forget(id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('HDEL', KEYS[2], id)
  redis.call('HDEL', KEYS[4], id)
end

-- The trial of an entry whose host died in the one before (0: there was none).
local function next_trial(before)
  if before >= 3 then return 4 end
  if terms == 'together' then return 1 end
  if terms == 'first' or before == 2 then return 3 end
  return 2
end

local function take(id)
  if #redis.call('XRANGE', KEYS[1], id, id) == 0 then
    redis.call('HDEL', KEYS[4], id)
    trimmed[#trimmed + 1] = id
    return
  end
  local trial = tonumber(redis.call('HGET', KEYS[4], id) or 0)
  if trial > 0 and (terms == 'crowd' or terms == 'together') then
    suspects[#suspects + 1] = id
    return
  end
  -- Where Redis refuses this, nothing is noted: a note is of a run that begins.
  local fields = redis.call('XCLAIM', KEYS[1], group, taker, 0, id)[1][2]
  if terms ~= 'crowd' and terms ~= 'alone' and (terms ~= 'again' or trial == 0) then
    trial = next_trial(trial)
    redis.call('HSET', KEYS[4], id, trial)
  end
  redis.call('ZREM', KEYS[3], id)
  for _, text in ipairs(fields) do bytes = bytes + #text end
  taken[#taken + 1] = { id, fields, redis.call('HGET', KEYS[2], id) or '', trial }
end

local odd = odd_key({ [KEYS[2]] = 'hash', [KEYS[3]] = 'zset', [KEYS[4]] = 'hash' })
if odd then return odd end
for at = 7, #ARGV do
  if bytes >= budget then break end
  local id = ARGV[at]
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if not pending then
    forget(id)
  elseif pending[2] == holder then
    take(id)
  elseif pending[2] ~= waiting then
    redis.call('ZREM', KEYS[3], id)
  end
  seen = seen + 1
end
return { taken, trimmed, suspects, seen }
