-- Makes what runs have left, for several of them in one step, and acknowledges
-- their deliveries.
--
-- What comes before this text: the functions store, open, arrive, close and ack,
-- which are the other scripts; and what never changes, to be sent only once.
-- `out_messages` is the hash of the messages that are out, `out_tags` the sorted
-- set of their tags; `results` is what the keys of results begin with. The lives
-- of results, joins, closed joins and shapes of headers, for how long to claim a
-- join and how long the size of one may be unknown are in milliseconds, a life
-- of '0' is for ever.
--
-- Keys are among the arguments: which they are is decided on the way.
--
-- ARGV: '1' if all this may have been done before, by a call whose answer was
-- lost. Then for each run: the tag of its delivery, or '' if it is not to be
-- acknowledged; how many works there are; and each of those as a letter and
-- what belongs to it.
--
-- Gives, for each run that is not simply done, its number, the number of the
-- work that it stopped at, and what that has found. One that has taken what it
-- published is done all the same.
local again = ARGV[1] == '1'
local out = { out_messages, out_tags }

-- What belongs to each kind of work.
local SIZES = {
    S = 3, -- store: id, JSON, '1' if the task has ended
    K = 2, -- keep: key, value
    P = 2, -- publish: list, message
    O = 3, -- open a join: key of the group, size, quorum
    A = 6, -- arrive: key of the group, member, place, part, '1' if it is a success, who asks
    C = 2, -- close a join: key of the group, claim
    -- T: take what is published last, unless there is something to take before:
    -- list, message, how much of the run's tag its own begins with, and the rest
    -- of that, what follows it in the record, what is added to the time for its
    -- score, how many lists there are to look at, and those
}

local function size_of(letter, at)
    if letter == 'T' then
        return 7 + ARGV[at + 7]
    end
    return SIZES[letter]
end

-- The tag of the run that is being made.
local tag

-- Each gives nil to go on.
local make = {}

-- Most often nothing is stored yet, and that is found out by storing it.
local function store_first(key, json)
    if result_life == '0' then
        return redis.call('SET', key, json, 'NX')
    end
    return redis.call('SET', key, json, 'NX', 'PX', result_life)
end

function make.S(id, json, has_ended)
    local key = results .. id
    if store_first(key, json) then
        redis.call('PUBLISH', key, json)
    elseif store({ key }, { json, has_ended, result_life }) == 0 then
        return { 'standing', redis.call('GET', key) }
    end
end

function make.K(key, value)
    if result_life == '0' then
        redis.call('SET', key, value)
    else
        redis.call('SET', key, value, 'PX', result_life)
    end
end

function make.P(list, message)
    redis.call('LPUSH', list, message)
end

function make.O(join, size, quorum)
    open({ join .. '.s', join .. '.c', join .. '.q' }, { size, quorum, join_life })
end

-- The keys of a join, and whether a member has arrived at it in this call.
local joins = {}

local function join_of(group)
    local join = joins[group]
    if not join then
        join = {
            keys = {
                group .. '.j', group .. '.t', group .. '.s', group .. '.d', group .. '.c', group,
                group .. '.q', group .. '.n', group .. '.g', group .. '.w',
            },
            is_renewed = '0',
        }
        joins[group] = join
    end
    return join
end

function make.A(group, member, place, part, is_success, asker)
    local join = join_of(group)
    local found = arrive(join.keys, {
        member, place, part, is_success, lease, join_life, asker, grace, closed_life, group_life,
        join.is_renewed,
    })
    join.is_renewed = '1'
    if found[1] ~= 'waiting' and found[1] ~= 'closed' then
        return found
    end
end

function make.C(group, claim)
    local keys = {}
    for _, key in ipairs(join_of(group).keys) do
        if key ~= group then
            keys[#keys + 1] = key
        end
    end
    close(keys, { claim, closed_life })
    joins[group] = nil
end

local function next_tag(common, rest)
    return string.sub(tag, 1, common) .. rest
end

function make.T(list, message, common, rest, tail, offset, _, ...)
    if redis.call('EXISTS', ...) > 0 or not redis.call('ZSCORE', out[2], tag) then
        redis.call('LPUSH', list, message)
        return
    end
    local time = redis.call('TIME')
    local score = string.format('%.6f', time[1] + time[2] / 1000000 + offset)
    local taken = next_tag(common, rest)
    redis.call('HSET', out[1], taken, '[' .. message .. tail)
    redis.call('ZADD', out[2], score, taken)
    return { 'taken' }
end

-- Whether the call whose answer was lost has done it all. If the delivery is
-- not out any more, either that is so, or the server has lost what it knew; a
-- result tells.
local function is_done(at)
    if tag == '' or redis.call('ZSCORE', out[2], tag) then
        return false
    end
    return ARGV[at] ~= 'S' or redis.call('GET', results .. ARGV[at + 1]) == ARGV[at + 2]
end

local stopped, tags, runs = {}, {}, {}
local run, at = 0, 2
while at <= #ARGV do
    run = run + 1
    local works = tonumber(ARGV[at + 1])
    tag = ARGV[at]
    at = at + 2
    local goes_on = not (again and is_done(at))
    local is_made = goes_on
    for work = 1, works do
        local letter = ARGV[at]
        local size = size_of(letter, at)
        if goes_on then
            local ran, found = pcall(make[letter], unpack(ARGV, at + 1, at + size))
            if not ran then
                found = { 'error', type(found) == 'table' and found.err or tostring(found) }
            end
            if found then
                stopped[#stopped + 1] = { run, work, found }
                goes_on, is_made = false, found[1] == 'taken'
            end
        elseif letter == 'T' and again
            and redis.call('ZSCORE', out[2], next_tag(ARGV[at + 3], ARGV[at + 4])) then
            stopped[#stopped + 1] = { run, work, { 'taken' } }
        end
        at = at + 1 + size
    end
    if is_made and tag ~= '' then
        tags[#tags + 1] = tag
        runs[#runs + 1] = run
    end
end

if #tags > 0 then
    for _, place in ipairs(ack(out, tags)) do
        stopped[#stopped + 1] = { runs[place], 0, { 'stale' } }
    end
end
return stopped
