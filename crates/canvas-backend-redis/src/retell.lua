-- Tells again of what is stored.
-- ARGV: what the names of the states begin with, which are also those of the
-- channels; and what follows that in each. Nothing is written, so the server
-- need not be told of the keys beforehand.
for number = 2, #ARGV do
    local key = ARGV[1] .. ARGV[number]
    local state = redis.call('GET', key)
    if state then
        redis.call('PUBLISH', key, state)
    end
end
