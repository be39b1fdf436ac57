-- One commit: the fields and logs that its changes touch.
-- KEYS: fence, session, done, logs. ARGV: epoch, version, the next one, by, life in ms, fields to set (number, then names and
-- values), fields to delete (number, names), logs, and what is to be remembered (0, or 1 and see `remember`).
-- Answers 1, or 2 if the life of the session was renewed and that of its other keys should be.
local refusal = unfenced()
if refusal then
    return refusal
end
local there = redis.call('HMGET', KEYS[2], 'ver', 'by')
local ver, by = there[1], there[2]
if outdated(by) then
    return -1
end
if ver ~= ARGV[2] then
    if ver == ARGV[3] and by == ARGV[4] then
        -- It was done and the answer got lost. Written again for whoever waits for replicas on this connection.
        redis.call('HSET', KEYS[2], 'by', by)
        return 1
    end
    return { ver or '', by or '' }
end

local set_count = tonumber(ARGV[6])
local del_at = 7 + set_count
local del_count = tonumber(ARGV[del_at])
local at, failed = logs(del_at + del_count + 1, ARGV[5])
if not at then
    return failed
end
set(KEYS[2], ARGV[3], ARGV[4], 7, set_count)
if del_count > 0 then
    redis.call('HDEL', KEYS[2], unpack(ARGV, del_at + 1, del_at + del_count))
end
if ARGV[at] == '1' then
    remember(KEYS[3], at + 1)
end
if redis.call('PTTL', KEYS[2]) < ARGV[5] * 0.9 then
    redis.call('PEXPIRE', KEYS[2], ARGV[5])
    return 2
end
return 1
