-- Ends deliveries for good.
--
-- A tag is of one delivery only. One that is not there any more was settled, or
-- its lease has passed to another delivery with another tag: nothing changes.
--
-- KEYS[1] hash of the messages that are out
-- KEYS[2] sorted set of their tags
-- ARGV    the tags
--
-- Returns the places of the tags that were not there.

local stale = {}
local scores = redis.call('ZMSCORE', KEYS[2], unpack(ARGV))
for place = 1, #ARGV do
  if not scores[place] then
    stale[#stale + 1] = place
  end
end
redis.call('ZREM', KEYS[2], unpack(ARGV))
redis.call('HDEL', KEYS[1], unpack(ARGV))
return stale
