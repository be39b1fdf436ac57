-- Remembers what the mesh is called: the first name that was ever proposed. KEYS: name. ARGV: one that is proposed. Answers it.
local name = redis.call('GET', KEYS[1])
if not name then
    redis.call('SET', KEYS[1], ARGV[1])
    return ARGV[1]
end
return name
