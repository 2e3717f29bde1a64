-- Closes a join whose body was sent, unless its claim has passed on.
-- KEYS: parts, growth, size, arrived, claim, quorum, claims, grown, waits.
-- ARGV: the claim; how long a closed join is remembered in milliseconds, or
-- '0' for ever.
local claim, claims = KEYS[5], KEYS[7]
local held = redis.call('GET', claim)

-- A claim that has lapsed counts until somebody else takes it.
if redis.call('GET', claims) ~= ARGV[1]
    or (held and not string.match(held, '^canvas:')) then
    return 0
end
redis.call('DEL', unpack(KEYS))
-- Celery's script looks for this, too.
if ARGV[2] == '0' then
    redis.call('SET', claim, 'done')
else
    redis.call('SET', claim, 'done', 'PX', ARGV[2])
end
return 1
