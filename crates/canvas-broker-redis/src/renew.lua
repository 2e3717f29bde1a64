-- Starts leases anew. A lease is never made shorter, and one that has passed
-- on is not brought back.
--
-- KEYS[1]  sorted set of the tags of messages that are out
-- ARGV[1]  lease minus visibility timeout, in seconds (see fetch.lua)
-- ARGV[2+] the tags
--
-- Returns the places of the tags that were not there.

local time = redis.call('TIME')
local score = time[1] + time[2] / 1000000 + ARGV[1]
local stale, renewed = {}, {}
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 2))
for place = 1, #ARGV - 1 do
  if scores[place] then
    renewed[#renewed + 1] = score
    renewed[#renewed + 1] = ARGV[place + 1]
  else
    stale[#stale + 1] = place
  end
end
if #renewed > 0 then
  redis.call('ZADD', KEYS[1], 'XX', 'GT', unpack(renewed))
end
return stale
