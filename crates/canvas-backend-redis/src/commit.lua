-- Makes what runs have left, for several of them in one step, and acknowledges
-- their deliveries.
--
-- The functions store, open, arrive, close and ack are the other scripts. Keys
-- are among the arguments: which they are is decided on the way.
--
-- ARGV: '1' if all this may have been done before, by a call whose answer was
-- lost; the hash of the messages that are out; the sorted set of their tags;
-- the lives of results, joins, closed joins and shapes of headers; for how long
-- to claim a join; how long the size of one may be unknown. All times are in
-- milliseconds, '0' for ever.
-- Then for each run: the tag of its delivery, or '' if it is not to be
-- acknowledged; how many works there are; and each of those as a letter and
-- what belongs to it.
--
-- Gives, for each run that is not simply done, its number, the number of the
-- work that it stopped at, and what that has found.
local again = ARGV[1] == '1'
local out = { ARGV[2], ARGV[3] }
local result_life, join_life, closed_life, group_life = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local lease, grace = ARGV[8], ARGV[9]

-- What belongs to each kind of work.
local SIZES = {
    S = 3, -- store: key, JSON, '1' if the task has ended
    K = 2, -- keep: key, value
    P = 2, -- publish: list, message
    O = 3, -- open a join: key of the group, size, quorum
    A = 6, -- arrive: key of the group, member, place, part, '1' if it is a success, who asks
    C = 2, -- close a join: key of the group, claim
}

-- Each gives nil to go on.
local make = {}

function make.S(key, json, has_ended)
    if store({ key }, { json, has_ended, result_life }) == 0 then
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

function make.A(join, member, place, part, is_success, asker)
    local keys = {
        join .. '.j', join .. '.t', join .. '.s', join .. '.d', join .. '.c', join,
        join .. '.q', join .. '.n', join .. '.g', join .. '.w',
    }
    local found = arrive(keys, {
        member, place, part, is_success, lease, join_life, asker, grace, closed_life, group_life,
    })
    if found[1] ~= 'waiting' and found[1] ~= 'closed' then
        return found
    end
end

function make.C(join, claim)
    local keys = {
        join .. '.j', join .. '.t', join .. '.s', join .. '.d', join .. '.c',
        join .. '.q', join .. '.n', join .. '.g', join .. '.w',
    }
    close(keys, { claim, closed_life })
end

-- Whether the call whose answer was lost has done it all. If the delivery is
-- not out any more, either that is so, or the server has lost what it knew; a
-- result tells.
local function is_done(tag, at)
    if tag == '' or redis.call('ZSCORE', out[2], tag) then
        return false
    end
    return ARGV[at] ~= 'S' or redis.call('GET', ARGV[at + 1]) == ARGV[at + 2]
end

local stopped, tags, runs = {}, {}, {}
local run, at = 0, 10
while at <= #ARGV do
    run = run + 1
    local tag, works = ARGV[at], tonumber(ARGV[at + 1])
    at = at + 2
    local goes_on = not (again and is_done(tag, at))
    local is_made = goes_on
    for work = 1, works do
        local letter = ARGV[at]
        local size = SIZES[letter]
        if goes_on then
            local ran, found = pcall(make[letter], unpack(ARGV, at + 1, at + size))
            if not ran then
                found = { 'error', type(found) == 'table' and found.err or tostring(found) }
            end
            if found then
                stopped[#stopped + 1] = { run, work, found }
                goes_on, is_made = false, false
            end
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
