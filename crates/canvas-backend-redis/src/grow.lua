-- Makes a join expect more members, once for each member that adds them.
-- KEYS: parts, growth, size, claim, claims, grown.
-- ARGV: the member; by how many; life in milliseconds, or '0' for ever.
local parts, growth, size, claim, claims, grown = unpack(KEYS)

-- Complete is complete.
local present = redis.call('ZCARD', parts)
local expected = redis.call('GET', size)
if redis.call('EXISTS', claim) == 1
    or (present > 0 and redis.call('EXISTS', claims) == 1)
    or (expected and present >= tonumber(expected) + tonumber(redis.call('GET', growth) or 0)) then
    return 0
end
-- Left from an earlier run of the same canvas, which Celery cleared away.
if redis.call('EXISTS', growth) == 0 then
    redis.call('DEL', grown)
end
-- That the size is not known does not mean that there is no join: a Python
-- process tells it last.
if redis.call('SADD', grown, ARGV[1]) == 0 then
    return 0
end
redis.call('INCRBY', growth, ARGV[2])
if ARGV[3] ~= '0' then
    redis.call('PEXPIRE', growth, ARGV[3])
    redis.call('PEXPIRE', grown, ARGV[3])
end
return 1
