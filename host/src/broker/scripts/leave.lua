-- Takes down a host's sign of life, and removes its consumer if that holds nothing.
--
-- KEYS  the name's live key, hosts, stream
-- ARGV  the name, token, group, 'done' if what the name still holds was not in flight when a host died
-- Gives 1 if the host has left, 0 if the name is another's by now: nothing was done.
--
-- A host that says it leaves did not die: what it holds is innocent.
local there = redis.call('GET', KEYS[1])
if there and not string.find(there, ARGV[2], 1, true) then return 0 end
redis.call('DEL', KEYS[1])
local held = redis.pcall('XPENDING', KEYS[3], ARGV[3], '-', '+', 1, ARGV[1])
local gone = held.err ~= nil
if not gone and #held == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[3], ARGV[3], ARGV[1])
  gone = true
end
if gone or ARGV[4] == 'done' then redis.call('SREM', KEYS[2], ARGV[1]) end
return 1
