-- Tells again of what is stored.
-- KEYS: the states, which are also the names of the channels.
for _, key in ipairs(KEYS) do
    local state = redis.call('GET', key)
    if state then
        redis.call('PUBLISH', key, state)
    end
end
