-- Counts a member into a join, and claims the join if it is complete.
-- KEYS: parts, growth, size, arrived, claim, group, quorum, claims, grown,
-- waits.
-- ARGV: the id of the member; its place; the part as JSON; '1' if it is a
-- success; for how long to claim; the life of all this, or '0' for ever; who
-- asks; how long the size may be unknown; how long a closed join is
-- remembered, and how long the shape of its header lives, each '0' for ever;
-- '1' if a member has just arrived in the same call, so that what each arrival
-- touches lives on as it is. Times are in milliseconds.
--
-- The first six keys are Celery's, and what is in them is as its own script
-- CHORD_PART_RETURN leaves it, so that both may work on one join.
local parts, growth, size, arrived, claim, group, quorum, claims, grown, waits = unpack(KEYS)
local id, place, part, is_success = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local lease, life, asker = ARGV[5], ARGV[6], ARGV[7]
local member = id .. ':' .. place

-- What is kept of the join; in one look, as most arrivals find nothing special.
local held, expected, grown_by = unpack(redis.call('MGET', claim, size, growth))
local wanted, failed, left_over, succeeded, counted =
    unpack(redis.call('HMGET', quorum, 'quorum', 'failed', 'left', 'successes', 'counted'))

-- The keys whose life starts anew, besides those that any arrival touches.
local touched = {}

-- Adds the member, if it has not arrived before.
local function count()
    if redis.call('SADD', arrived, member) == 0 then
        return false
    end
    -- One task may be a member at two places, with the same result: Celery's
    -- script then has one part for both, and never sees the join complete. A
    -- space at the end is no part of the JSON.
    while redis.call('ZADD', parts, 'NX', place, part) == 0 do
        part = part .. ' '
    end
    if not is_success then
        redis.call('HSET', quorum, 'failed', 1)
        failed = true
    end
    return true
end

local function renew()
    local just_renewed = ARGV[11] == '1'
    if life ~= '0' then
        if not just_renewed then
            touched[#touched + 1] = parts
            touched[#touched + 1] = arrived
            if expected then
                touched[#touched + 1] = size
            end
        end
        if grown_by then
            touched[#touched + 1] = growth
            touched[#touched + 1] = grown
        end
        if wanted or failed then
            touched[#touched + 1] = quorum
        end
        for _, key in ipairs(touched) do
            redis.call('PEXPIRE', key, life)
        end
    end
    if ARGV[10] ~= '0' and not just_renewed then
        redis.call('PEXPIRE', group, ARGV[10])
    end
end

-- The time in milliseconds, where it is needed.
local now
if held == 'done' or not expected then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The member that asks for the size has arrived: the join was closed between
-- two of its questions.
if held == 'done' then
    local watcher, deadline = unpack(redis.call('HMGET', waits, 'member', 'until'))
    if watcher == member and now < tonumber(deadline) then
        redis.call('DEL', waits)
        return { 'closed' }
    end
end

-- What a join that failed has left to be looked into is in the way when the
-- same canvas is sent again.
if left_over and (not held or held == 'done') then
    redis.call('DEL', parts, quorum)
    wanted, failed, succeeded, counted = nil, nil, nil, nil
end
if held == 'done' then
    -- A Python process that sends the same canvas again opens the join anew
    -- with the last of its members: those before it are kept until then.
    if count() then
        redis.call('DEL', claims)
        renew()
    end
    return { 'closed' }
end

if held and not expected then
    -- Celery drops the size once it has failed the body.
    if ARGV[9] == '0' then
        redis.call('SET', claim, 'done')
    else
        redis.call('SET', claim, 'done', 'PX', ARGV[9])
    end
    return { 'closed' }
end

local function complete()
    return { 'complete', redis.call('GET', claims), redis.call('ZRANGE', parts, 0, -1, 'WITHSCORES') }
end

if held then
    -- The same call, made again because its answer was lost.
    if string.match(held, '^canvas:%d+:(.*)$') == asker then
        return complete()
    end
    local left = redis.call('PTTL', claim)
    return { 'claimed', left >= 0 and left or tonumber(lease) }
end

if not expected then
    -- Either the join is lost, or the Python process that sends its members
    -- has not sent the last one. One member waits to see which; the others
    -- need not.
    local grace = tonumber(ARGV[8])
    if grace == 0 then
        return { 'missing' }
    end
    local is_new = count()
    local watcher = redis.call('HGET', waits, 'member')
    local deadline = tonumber(redis.call('HGET', waits, 'until') or 0)
    if is_new then
        if not watcher or now >= deadline then
            watcher = member
        end
        deadline = now + grace
        redis.call('HSET', waits, 'member', watcher, 'until', string.format('%d', deadline))
    end
    touched[#touched + 1] = waits
    renew()
    if watcher and now >= deadline then
        return { 'missing' }
    elseif watcher == member then
        return { 'claimed', deadline - now }
    end
    return { 'waiting', redis.call('ZCARD', parts), 0 }
end

expected = tonumber(expected) + tonumber(grown_by or 0)
local enough = tonumber(wanted or expected)
local present = redis.call('ZCARD', parts)
if present == 0 then
    -- Left from an earlier run of the same canvas, which Celery cleared away.
    redis.call('DEL', claims)
end
local good = 0
if enough < expected then
    good = tonumber(succeeded or 0)
    -- A Python worker does not count successes.
    if tonumber(counted or 0) ~= present then
        good = 0
        for _, text in ipairs(redis.call('ZRANGE', parts, 0, -1)) do
            if string.match(text, '^%s*%[%s*1%s*,%s*"[^"]*"%s*,%s*"SUCCESS"') then
                good = good + 1
            end
        end
    end
end

-- What arrives after the join was complete stays out: the body is then sent
-- again, and not another one.
local was_complete = present > 0
    and (present >= expected or (enough < expected and good >= enough))
if not was_complete and count() then
    present = present + 1
    if is_success then
        good = good + 1
    end
end
if enough < expected then
    redis.call('HSET', quorum, 'successes', good, 'counted', present)
end

if present < expected and (enough >= expected or good < enough) then
    renew()
    return { 'waiting', present, expected }
end

local number = redis.call('INCR', claims)
if was_complete and number == 1 then
    -- A Python worker has claimed it before.
    number = redis.call('INCR', claims)
end
redis.call('SET', claim, 'canvas:' .. number .. ':' .. asker, 'PX', lease)
touched[#touched + 1] = claims
renew()
return complete()
