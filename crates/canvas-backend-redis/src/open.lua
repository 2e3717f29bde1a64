-- Opens a join, unless it is open or closed.
-- KEYS: size, claim, quorum.
-- ARGV: how many members; how many successes are enough; life in
-- milliseconds, or '0' for ever.
if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1])
-- Without a quorum this is all that Celery writes, too.
if tonumber(ARGV[2]) < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[3], 'quorum', ARGV[2])
end
if ARGV[3] ~= '0' then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    redis.call('PEXPIRE', KEYS[3], ARGV[3])
end
return 1
