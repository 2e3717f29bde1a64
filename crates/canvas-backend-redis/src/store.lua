-- Stores the state of a task and tells those who wait for it.
-- KEYS: the state, which is also the name of the channel.
-- ARGV: the JSON; '1' if the task has ended with it; its life in milliseconds,
-- or '0' for ever.
-- Gives 1, or 0 if an earlier end stands.
local ENDS = { SUCCESS = true, FAILURE = true, REVOKED = true, IGNORED = true }

local old = redis.call('GET', KEYS[1])
if old == ARGV[1] then
    -- The same call, made again because its answer was lost.
    return 1
end
if old then
    -- Celery and we write the status first. Only where somebody does not is
    -- all of it decoded, and nothing is ever encoded again: numbers would not
    -- survive that.
    local status = string.match(old, '^%s*{%s*"status"%s*:%s*"([%w_]*)"')
    if not status then
        local readable, meta = pcall(cjson.decode, old)
        status = readable and type(meta) == 'table' and meta.status
    end
    if status == 'SUCCESS' or (ENDS[status] and ARGV[2] ~= '1') then
        return 0
    end
end

if ARGV[3] == '0' then
    redis.call('SET', KEYS[1], ARGV[1])
else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
