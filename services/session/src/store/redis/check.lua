-- In front of every script that writes. KEYS[1] is the fence of the slot, ARGV[1] the epoch of the writer. Epochs and versions
-- are decimal numbers without leading zeros, compared as such: they may be larger than what a number of Lua holds exactly.
-- Refusals: -1 = a higher epoch is known, -2 = the writer's own is not known, a table = another version is there.
local call = redis.call
local fence = call('GET', KEYS[1])
if fence ~= ARGV[1] then
    if fence and less(ARGV[1], fence) then
        return -1
    end
    return -2
end
