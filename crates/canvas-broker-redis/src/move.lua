-- Ends deliveries and puts their messages somewhere else: back into a queue, or
-- among the dead letters. One that was settled meanwhile is passed over.
--
-- KEYS[1]  hash of the messages that are out
-- KEYS[2]  sorted set of their tags
-- KEYS[3+] for each item, the list that takes the message
-- ARGV[1]  visibility timeout, in seconds: deliveries whose lease has not
--          ended are passed over. Empty: none are
-- ARGV[2+] four for each item:
--          the tag; empty if the message goes to several lists and this is
--          another of them
--          R to be taken next, L to be taken last
--          how many the list may hold, the oldest dropped; 0 for any number
--          the message
--
-- Returns 1 or 0 for each item: whether it was moved.

local latest
if ARGV[1] ~= '' then
  local time = redis.call('TIME')
  latest = time[1] + time[2] / 1000000 - ARGV[1]
end

local moved = {}
local is_out = false
for item = 1, #KEYS - 2 do
  local at = 4 * item - 2
  local tag, side, most, message = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  if tag ~= '' then
    local score = redis.call('ZSCORE', KEYS[2], tag)
    is_out = score and not (latest and tonumber(score) > latest)
    if is_out then
      redis.call('ZREM', KEYS[2], tag)
      redis.call('HDEL', KEYS[1], tag)
    end
  end
  if is_out then
    local list = KEYS[2 + item]
    redis.call(side == 'R' and 'RPUSH' or 'LPUSH', list, message)
    if most > 0 then
      redis.call('LTRIM', list, -most, -1)
    end
  end
  moved[item] = is_out and 1 or 0
end
return moved
