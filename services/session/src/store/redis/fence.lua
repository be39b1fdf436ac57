-- Raises the fence of a slot, never lowers it. KEYS: fence, holder. ARGV: epoch, store. Answers 1 where it stands at the epoch and
-- this store raised it; else where it stands, as text. An epoch that somebody else has used comes back when leases were restored.
local fence = redis.call('GET', KEYS[1])
if fence and not less(fence, ARGV[1]) then
    if fence == ARGV[1] and redis.call('GET', KEYS[2]) == ARGV[2] then
        return 1
    end
    return fence
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1
