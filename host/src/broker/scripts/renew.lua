-- Begins the leases of entries anew, so that nobody takes them for left behind.
--
-- KEYS  stream
-- ARGV  group, consumer that must hold them, consumer that holds them from now on, the waiting consumer, ids…
-- Gives for each id
--   1  renewed
--   0  no longer pending, or waiting for another attempt: it is settled
--  -1  pending for another consumer: left alone
--  -2  its body was trimmed: left pending, for its holder to settle
--
-- XCLAIM drops a pending entry whose body is gone (7.0), so that is looked at first.
-- It counts no delivery with JUSTID.
local group, holder, taker, waiting = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function renew(id)
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if not pending or pending[2] == waiting then return 0 end
  if pending[2] ~= holder then return -1 end
  if #redis.call('XRANGE', KEYS[1], id, id) == 0 then return -2 end
  redis.call('XCLAIM', KEYS[1], group, taker, 0, id, 'JUSTID')
  return 1
end

local answers = {}
for at = 5, #ARGV do answers[#answers + 1] = renew(ARGV[at]) end
return answers
