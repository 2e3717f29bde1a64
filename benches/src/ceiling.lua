-- All that a worker asks of the server, in one step: what it has finished is
-- stored, told and acknowledged, and the next messages are taken.
--
-- KEYS[1]  the queue
-- KEYS[2]  hash of the messages that are out
-- KEYS[3]  sorted set of their tags
-- ARGV[1]  how many messages to take
-- ARGV[2]  what their tags begin with
-- ARGV[3]  how long results live, in seconds
-- ARGV[4+] three for each task that has finished: its tag, the key of its
--          result, and the result; empty for none

local tags = {}
for at = 4, #ARGV, 3 do
  tags[#tags + 1] = ARGV[at]
  if ARGV[at + 2] ~= '' then
    redis.call('SET', ARGV[at + 1], ARGV[at + 2], 'EX', ARGV[3])
    redis.call('PUBLISH', ARGV[at + 1], ARGV[at + 2])
  end
end
if #tags > 0 then
  redis.call('HDEL', KEYS[2], unpack(tags))
  redis.call('ZREM', KEYS[3], unpack(tags))
end

local messages = redis.call('RPOP', KEYS[1], ARGV[1]) or {}
if #messages > 0 then
  local time = redis.call('TIME')
  local now = string.format('%d.%06d', time[1], time[2])
  local records, scores = {}, {}
  for place, message in ipairs(messages) do
    local tag = ARGV[2] .. place
    records[#records + 1] = tag
    records[#records + 1] = '[' .. message .. ', "", "' .. KEYS[1] .. '"]'
    scores[#scores + 1] = now
    scores[#scores + 1] = tag
  end
  redis.call('HSET', KEYS[2], unpack(records))
  redis.call('ZADD', KEYS[3], unpack(scores))
end
return messages
