-- Finds deliveries whose lease has ended, the latest first: each is put where
-- it is taken next, so the one put back last, the oldest, is taken first.
--
-- KEYS[1] hash of the messages that are out
-- KEYS[2] sorted set of their tags
-- ARGV[1] visibility timeout, in seconds
-- ARGV[2] how many at most
-- ARGV[3] bytes after which to stop
--
-- Returns the tag and the record of each. A tag without a record, which is of no
-- use to anyone, is dropped.

local time = redis.call('TIME')
local latest = time[1] + time[2] / 1000000 - ARGV[1]
local due = redis.call(
  'ZRANGE', KEYS[2], latest, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[2])
local found, room = {}, tonumber(ARGV[3])
for _, tag in ipairs(due) do
  local record = redis.call('HGET', KEYS[1], tag)
  if record then
    found[#found + 1] = tag
    found[#found + 1] = record
    room = room - #record
    if room <= 0 then
      break
    end
  else
    redis.call('ZREM', KEYS[2], tag)
  end
end
return found
