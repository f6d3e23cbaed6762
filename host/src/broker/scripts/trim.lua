-- Removes entries that every group of a stream has acknowledged, and no other.
--
-- KEYS  stream
-- ARGV  how many entries to remove in one go, about
-- Gives how many were removed, or -1 where the stream has no group: then nothing is, as nobody
-- can tell what was handled.
--
-- What a group has not acknowledged begins with its first pending entry or the first that it has
-- not read, whichever comes first. The earliest of these over all groups is the first to stay. It is
-- looked for and trimmed to in one step, so that no group can move in between.

-- Ids are compared by length first: 64 bits are more than a number of Lua holds.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function before(a, b)
  local a1, a2 = string.match(a, '(%d+)%-(%d+)')
  local b1, b2 = string.match(b, '(%d+)%-(%d+)')
  if a1 ~= b1 then return less(a1, b1) end
  return less(a2, b2)
end

local stays

local function keep(id)
  if id and (not stays or before(id, stays)) then stays = id end
end

if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then return -1 end
for _, row in ipairs(groups) do
  local group = {}
  for at = 1, #row, 2 do group[row[at]] = row[at + 1] end
  local pending = redis.call('XPENDING', KEYS[1], group['name'])
  if pending[1] > 0 then keep(pending[2]) end
  local unread = redis.call('XRANGE', KEYS[1], '(' .. group['last-delivered-id'], '+', 'COUNT', 1)[1]
  if unread then keep(unread[1]) end
end

local how, limit = stays and 'MINID' or 'MAXLEN', stays or 0
-- Whole nodes are removed quickly, and so many at most; a last one in part only when no whole one is left.
local removed = redis.call('XTRIM', KEYS[1], how, '~', limit, 'LIMIT', ARGV[1])
if removed > 0 then return removed end
return redis.call('XTRIM', KEYS[1], how, '=', limit)
