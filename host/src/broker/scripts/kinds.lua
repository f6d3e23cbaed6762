-- What scripts begin with that keep something of their own in keys: whether these are theirs.
--
-- KEYS  none of its own
-- ARGV  none of its own
-- Gives the function `odd_key`: an error for the first key that is of another type than it should be,
-- which names it, under a code that no server uses; nil where all are as they should be, or not there.
local WORDS = { hash = 'hash', zset = 'sorted set', set = 'set', string = 'string', list = 'list', stream = 'stream' }

local function odd_key(kinds)
  for key, kind in pairs(kinds) do
    local found = redis.call('TYPE', key)['ok']
    if found ~= kind and found ~= 'none' then
      local text = 'ODDKEY %s is a %s where a %s of Tidegate should be; delete or rename it'
      return redis.error_reply(string.format(text, key, WORDS[found] or found, WORDS[kind]))
    end
  end
end
