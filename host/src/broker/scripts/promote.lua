-- Moves entries that are due to their stream, in the order in which they are: each is appended and
-- taken out of the set in one step, so that it appears once, whoever calls this and how often.
--
-- KEYS  set of what is delayed for the stream, the stream
-- ARGV  entries to move at most, bytes to move at most (an entry may go beyond)
-- Gives how many were moved, and in how many milliseconds the next is due, or -1 if there is none.
--
-- Where the stream cannot take an entry, such as when it is a key of another type, the script
-- fails; that entry stays, and those before it are on their stream.
local entries, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local moved = 0

-- Changes nothing, and fails where memory or permissions do not suffice: after the first command
-- that writes, a script is not refused for want of memory, and an entry that was appended but could
-- not be taken out would be appended again.
local function try(first)
  redis.call('ZADD', KEYS[1], 'XX', first[2], first[1])
  redis.call('ZREM', KEYS[1], '')
end

while true do
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  local member = first[1]
  if not member then return { moved, -1 } end
  local wait = tonumber(first[2]) - now
  if wait > 0 then return { moved, wait } end
  if moved == entries or bytes <= 0 then return { moved, 0 } end
  if moved == 0 then try(first) end
  redis.call('XADD', KEYS[2], '*', unpack(held(member)))
  redis.call('ZREM', KEYS[1], member)
  moved = moved + 1
  bytes = bytes - #member
end
