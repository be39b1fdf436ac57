-- Raises the fence of a slot, never lowers it; answers where it stands. KEYS: fence. ARGV: epoch.
local fence = redis.call('GET', KEYS[1])
if fence and not less(fence, ARGV[1]) then
    return fence
end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
