-- Takes the lease on a stream, if nobody else has it, or keeps it for longer.
--
-- KEYS  lease, generation, tenures
-- ARGV  name, milliseconds it lasts, the tenure that is to be kept ('' to take a new one),
--       the name of a host that is known to be dead ('' for none): its lease is taken at once,
--       what tells this host's process from others
-- Gives the tenure, `name#generation`, or
--   0         the tenure that was to be kept is over
--   a number  another host has the lease, for so many milliseconds unless it renews it
--
-- Each tenure has a number that no other had, so that one that is over is told from those after it.
-- It is noted whose it is until it is given up: one that is still noted behind its lease may have
-- ended with its host.
local name, lasts, kept = ARGV[1], ARGV[2], ARGV[3]
local odd = odd_key({ [KEYS[1]] = 'string' })
if odd then return odd end
local tenure = redis.call('GET', KEYS[1])
if kept ~= '' then
  if tenure ~= kept then return 0 end
  redis.call('PEXPIRE', KEYS[1], lasts)
  return kept
end
if tenure and string.match(tenure, '^(.*)#%d+$') ~= ARGV[4] then return redis.call('PTTL', KEYS[1]) end
-- Whoever has a lease does without these; a number is not used up for a tenure that cannot be noted.
odd = odd_key({ [KEYS[2]] = 'string', [KEYS[3]] = 'hash' })
if odd then return odd end
local new = name .. '#' .. redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[3], new, ARGV[5])
redis.call('SET', KEYS[1], new, 'PX', lasts)
return new
