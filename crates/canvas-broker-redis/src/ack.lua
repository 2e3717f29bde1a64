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
if redis.call('ZREM', KEYS[2], unpack(ARGV)) < #ARGV then
  -- Some were not there. The record, of the same tags, still says which.
  for place, tag in ipairs(ARGV) do
    if redis.call('HEXISTS', KEYS[1], tag) == 0 then
      stale[#stale + 1] = place
    end
  end
end
redis.call('HDEL', KEYS[1], unpack(ARGV))
return stale
