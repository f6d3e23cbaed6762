-- Keeps entries until they are due on their stream.
--
-- KEYS  set of what is delayed for the stream
-- ARGV  milliseconds to wait, then for each entry: number of values, field, value, …
-- Gives when they are due, in milliseconds by the server's clock.
--
-- All of them or none: a server that is out of memory refuses the first write.
local wait = tonumber(ARGV[1])
local at = 2
while at <= #ARGV do
  local values = tonumber(ARGV[at])
  hold(KEYS[1], wait, at + 1, at + values)
  at = at + values + 1
end
return now + wait
