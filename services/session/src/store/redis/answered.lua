-- What is remembered under a name, unless it is too old. KEYS: done. ARGV: name.
local kept = redis.call('HGET', KEYS[1], 'k' .. ARGV[1])
if not kept then
    return false
end
local at, rest = string.match(kept, '^(%d+) (.*)$')
local time = redis.call('TIME')
if not at or at + $KEPT_MS <= time[1] * 1000 + math.floor(time[2] / 1000) then
    return false
end
return rest
