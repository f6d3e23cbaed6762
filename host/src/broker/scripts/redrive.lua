-- Puts a dead letter's original fields back on the stream they came from, and removes the letter.
--
-- KEYS  dead-letter stream, source stream
-- ARGV  id of the letter, number of fields that the burial added, mark of the first of them
-- Gives the new entry's id, or
--   0  there is no such letter
--  -1  it is not a dead letter
--  -2  it has no fields of its own: its body was trimmed before it was buried
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local values = letter[2]
local own = #values - 2 * tonumber(ARGV[2])
if own < 0 or values[own + 1] ~= ARGV[3] then return -1 end
if own == 0 then return -2 end
local may = redis.acl_check_cmd
if may and not may('XDEL', KEYS[1], ARGV[1]) then
  return redis.error_reply('NOPERM this user may append, but not remove the letter with XDEL')
end
local id = redis.call('XADD', KEYS[2], '*', unpack(values, 1, own))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
