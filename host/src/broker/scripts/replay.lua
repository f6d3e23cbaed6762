-- Hands entries to a group again that it has settled: they wait under the waiting consumer, due now.
--
-- KEYS  stream, failures, waiting
-- ARGV  group, the waiting consumer, where to begin and to end (as XRANGE takes it),
--       entries to look at, entries to replay at most, 'replay' or 'count'
-- Gives how many were replayed, how many are pending already, how many are not yet read, and
-- the last id looked at ('' when there was none).
--
-- No other group notices. What is pending or unread is left alone: it is handled anyway.
-- With 'count' nothing is written.
local group, waiting = ARGV[1], ARGV[2]
local most, act = tonumber(ARGV[6]), ARGV[7]
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))

local function last_delivered()
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local found = {}
    for at = 1, #row, 2 do found[row[at]] = row[at + 1] end
    if found['name'] == group then return found['last-delivered-id'] end
  end
end

-- Ids have 64 bits twice; numbers of Lua have 53: the longer run of digits is the greater.
local function less(one, other)
  if #one ~= #other then return #one < #other end
  return one < other
end

local function after(one, other)
  local millis, sequence = string.match(one, '(%d+)-(%d+)')
  local than_millis, than_sequence = string.match(other, '(%d+)-(%d+)')
  if millis ~= than_millis then return less(than_millis, millis) end
  return less(than_sequence, sequence)
end

local read_to = last_delivered()
if not read_to then return redis.error_reply('NOGROUP the group is not there') end

local replayed, pending, unread, last = 0, 0, 0, ''
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[4], 'COUNT', ARGV[5])) do
  if replayed >= most then break end
  last = entry[1]
  if after(last, read_to) then
    unread = unread + 1
  elseif #redis.call('XPENDING', KEYS[1], group, last, last, 1) > 0 then
    pending = pending + 1
  else
    replayed = replayed + 1
    if act == 'replay' then
      redis.call('XCLAIM', KEYS[1], group, waiting, 0, last, 'FORCE', 'JUSTID')
      redis.call('HDEL', KEYS[2], last)
      redis.call('ZADD', KEYS[3], now, last)
    end
  end
end
return { replayed, pending, unread, last }
