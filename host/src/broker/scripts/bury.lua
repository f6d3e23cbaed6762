-- Moves an entry to the dead-letter stream and acknowledges it: both, or nothing.
--
-- KEYS  stream, failures, waiting, dead-letter stream
-- ARGV  group, consumer ('' for whichever holds it), id, command to acknowledge by (XACK, or XACKDEL to
--       remove the entry from the stream where every group has acknowledged it), field, value, …
-- Gives
--   1  buried
--   2  likewise, but the server does not know XACKDEL: the entry stays on the stream
--   0  no longer pending: it was settled before, so nothing was written
--  -1  pending for another consumer: nothing was written
local group, consumer, id, how = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- Never fails for want of XACKDEL: by then the letter is written.
local function acknowledge()
  if how == 'XACKDEL' then
    local done = redis.pcall('XACKDEL', KEYS[1], group, 'ACKED', 'IDS', 1, id)
    if not done.err then return 1 end
  end
  redis.call('XACK', KEYS[1], group, id)
  return how == 'XACKDEL' and 2 or 1
end

-- Refuses everything where what follows the first write would be refused: a script that fails behind
-- that has written, and would write again each time. (`redis.acl_check_cmd` is there since 7.0.)
local function objection()
  local odd = odd_key({ [KEYS[1]] = 'stream', [KEYS[2]] = 'hash', [KEYS[3]] = 'zset' })
  if odd then return odd end
  local may = redis.acl_check_cmd
  if not may then return end
  if not (may('XACK', KEYS[1], group, id) and may('HDEL', KEYS[2], id) and may('ZREM', KEYS[3], id)) then
    return redis.error_reply(
      'NOPERM this user may write dead letters, but not acknowledge with XACK, HDEL and ZREM')
  end
end

local refused = objection()
if refused then return refused end
local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
if not pending then return 0 end
if consumer ~= '' and pending[2] ~= consumer then return -1 end
redis.call('XADD', KEYS[4], '*', unpack(ARGV, 5))
redis.call('HDEL', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
return acknowledge()
