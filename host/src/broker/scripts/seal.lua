-- Acknowledges an entry whose dead letter was just written, or takes that letter back.
--
-- For letters with more values than a script can hand to XADD: they are written by a plain XADD, and
-- this runs behind it in one transaction (MULTI), so that nobody sees the one without the other.
--
-- KEYS  stream, failures, waiting, dead-letter stream
-- ARGV  group, consumer ('' for whichever holds it), id, command to acknowledge by (XACK or XACKDEL),
--       number of fields that the burial added
-- Gives
--   1  buried
--   2  likewise, but the server does not know XACKDEL
--   0  no longer pending: it was settled before; the letter is gone again
--  -1  pending for another consumer: the letter is gone again
--  -3  there is no such letter: it could not be written, and nothing was done
local group, consumer, id, how = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function letter()
  if redis.call('TYPE', KEYS[4])['ok'] ~= 'stream' then return nil end
  local last = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
  if not last then return nil end
  local own = #last[2] - 2 * tonumber(ARGV[5])
  if own < 0 then return nil end
  -- The first of the added fields are the source, the id and the group.
  local is_it = last[2][own + 2] == KEYS[1] and last[2][own + 4] == id and last[2][own + 6] == group
  return is_it and last[1] or nil
end

local function acknowledge()
  if how == 'XACKDEL' then
    local done = redis.pcall('XACKDEL', KEYS[1], group, 'ACKED', 'IDS', 1, id)
    if not done.err then return 1 end
  end
  redis.call('XACK', KEYS[1], group, id)
  return how == 'XACKDEL' and 2 or 1
end

-- Why what follows would be refused: then the letter must not stay, as it would be written again each time.
local function objection()
  local odd = odd_key({ [KEYS[1]] = 'stream', [KEYS[2]] = 'hash', [KEYS[3]] = 'zset' })
  if odd then return odd end
  local may = redis.acl_check_cmd
  if may and not (may('XACK', KEYS[1], group, id) and may('HDEL', KEYS[2], id) and may('ZREM', KEYS[3], id)) then
    return redis.error_reply(
      'NOPERM this user may write dead letters, but not acknowledge with XACK, HDEL and ZREM')
  end
end

local written = letter()
if not written then return -3 end
local refused = objection()
if refused then
  redis.call('XDEL', KEYS[4], written)
  return refused
end
local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
if not pending or (consumer ~= '' and pending[2] ~= consumer) then
  redis.call('XDEL', KEYS[4], written)
  return pending and -1 or 0
end
redis.call('HDEL', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
return acknowledge()
