-- Forgets that hosts died while entries were in flight: of those that have run alone
-- since and let their host live, and of those that are settled.
--
-- KEYS  stream, deaths
-- ARGV  group, consumer that must hold the survivors if they are still pending, the waiting
--       consumer, which may have them by now, survivors' ids…
-- Gives how many were forgotten.
local group, consumer, waiting = ARGV[1], ARGV[2], ARGV[3]
local odd = odd_key({ [KEYS[2]] = 'hash' })
if odd then return odd end
local survived, forgotten = {}, 0

-- Nothing is pending in a group that is gone.
local function holder(id)
  local rows = redis.pcall('XPENDING', KEYS[1], group, id, id, 1)
  if rows.err and string.find(rows.err, 'NOGROUP', 1, true) then return nil end
  if rows.err then rows = redis.call('XPENDING', KEYS[1], group, id, id, 1) end
  return rows[1] and rows[1][2]
end

for at = 4, #ARGV do survived[ARGV[at]] = true end
for _, id in ipairs(redis.call('HKEYS', KEYS[2])) do
  local owner = holder(id)
  if not owner or (survived[id] and (owner == consumer or owner == waiting)) then
    forgotten = forgotten + redis.call('HDEL', KEYS[2], id)
  end
end
return forgotten
