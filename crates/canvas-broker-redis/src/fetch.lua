-- Takes messages out of queues and records, in the same step, that they are
-- out: a message is always in a list or in the record, never only on its way.
--
-- The record is kombu's, so any worker can restore it. The score says when:
-- Python takes scores for the time of delivery and waits for its visibility
-- timeout, so a lease is written as if the message had been delivered so much
-- earlier (or later) that the timeout ends with the lease.
--
-- KEYS     the lists: for each priority step, those of all queues in the order
--          of their turns. A client that tracks what it looks at is told of
--          changes to any of KEYS, so the other keys are among the arguments
-- ARGV[1]  hash of the messages that are out: tag -> [message, exchange, key]
-- ARGV[2]  sorted set of the same tags, by time
-- ARGV[3]  how many to take at most
-- ARGV[4]  bytes after which to stop
-- ARGV[5]  lease minus visibility timeout, in seconds
-- ARGV[6]  what the tags begin with
-- ARGV[7]  the number of the first tag
-- ARGV[8+] for each queue, what follows the message in its records
--
-- Returns the place of the queue and the message, for each in turn; after them
-- 0, if there was room for more and all lists are empty. The lists were looked
-- at then, and a client that tracks what it looks at is told of the next push.

local out, tags = ARGV[1], ARGV[2]
local left, room = tonumber(ARGV[3]), tonumber(ARGV[4])
local prefix, number = ARGV[6], tonumber(ARGV[7])
local queues = #ARGV - 7
local taken, records, scores = {}, {}, {}

-- As text, so that it is not formatted for each message anew.
local time = redis.call('TIME')
local score = string.format('%.6f', time[1] + time[2] / 1000000 + ARGV[5])

local function take(list, queue, most)
  local messages = redis.call('RPOP', list, most)
  if not messages then
    return 0
  end
  for _, message in ipairs(messages) do
    local tag = string.format('%s%016x', prefix, number)
    number = number + 1
    left = left - 1
    room = room - #message
    taken[#taken + 1] = queue
    taken[#taken + 1] = message
    records[#records + 1] = tag
    records[#records + 1] = '[' .. message .. ARGV[7 + queue]
    scores[#scores + 1] = score
    scores[#scores + 1] = tag
  end
  return #messages
end

-- How many to take from one queue at a time: one by one if there are several,
-- so that they take turns, else as many as fit if they are like the last one.
local function share()
  if queues > 1 or #taken == 0 then
    return 1
  end
  return math.max(1, math.min(left, 64, math.floor(room / #taken[#taken])))
end

for step = 1, #KEYS, queues do
  local more = true
  while more do
    more = false
    for queue = 1, queues do
      if left > 0 and room > 0 then
        local most = share()
        more = take(KEYS[step + queue - 1], queue, most) == most or more
      end
    end
  end
end

-- unpack has a limit of some thousand, which ARGV[3] stays far below.
if #taken > 0 then
  redis.call('HSET', out, unpack(records))
  redis.call('ZADD', tags, unpack(scores))
end
if left > 0 and room > 0 and redis.call('EXISTS', unpack(KEYS)) == 0 then
  taken[#taken + 1] = 0
end
return taken
