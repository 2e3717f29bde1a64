-- Closes a join whose body was sent, unless its claim has passed on.
-- KEYS: parts, growth, size, arrived, claim, quorum, claims, grown, waits.
-- ARGV: the claim; how long a closed join is remembered in milliseconds, or
-- '0' for ever.
local parts, claim, quorum, claims = KEYS[1], KEYS[5], KEYS[6], KEYS[7]
local waits = KEYS[9]
-- Who asks for the size is remembered a while, as it does not know yet that it
-- was counted in time; the rest goes.
local gone = 8
local held = redis.call('GET', claim)

-- A claim that has lapsed counts until somebody else takes it.
if redis.call('GET', claims) ~= ARGV[1]
    or (held and not string.match(held, '^canvas:')) then
    return 0
end
if redis.call('HEXISTS', quorum, 'failed') == 1 then
    -- As in Celery, the parts of a join that failed stay, to be looked into.
    redis.call('DEL', unpack(KEYS, 2, gone))
    redis.call('HSET', quorum, 'left', 1)
    local left = redis.call('PTTL', parts)
    if left > 0 then
        redis.call('PEXPIRE', quorum, left)
    end
else
    redis.call('DEL', unpack(KEYS, 1, gone))
end
redis.call('PEXPIRE', waits, 60000)
-- Celery's script looks for this, too.
if ARGV[2] == '0' then
    redis.call('SET', claim, 'done')
else
    redis.call('SET', claim, 'done', 'PX', ARGV[2])
end
return 1
