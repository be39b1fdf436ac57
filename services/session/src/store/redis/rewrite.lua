-- The whole of a session, instead of whatever is there.
-- KEYS: fence, session, done, logs. ARGV: epoch, what may be there (`max`: a version up to, or nothing, `old`: a version up to,
-- `is`: just this one), that version,
-- by whom (empty = anybody), the version to be, by, life in ms, fields (number, names and values), logs, and what is to be
-- remembered (0, or 1 and see `remember`). Whose session it is stays, unless it is among the fields.
local refusal = unfenced()
if refusal then
    return refusal
end
local there = redis.pcall('HMGET', KEYS[2], 'ver', 'by', 'v', 'who', 'transport')
if there.err then
    if ARGV[2] ~= 'max' then
        return there
    end
    there = {}
end
local ver, by = there[1], there[2]
if outdated(by) then
    return -1
end
if ver == ARGV[5] and by == ARGV[6] then
    redis.call('HSET', KEYS[2], 'by', by)
    return 1
end
local fits
if ARGV[2] == 'max' or ARGV[2] == 'old' then
    -- One that was given up and comes late takes nobody's place: its writer has written since.
    local whose, which = string.match(by or '', '^(.*)%.(%d+)$')
    local writer, number = string.match(ARGV[6], '^(.*)%.(%d+)$')
    local late = whose and whose == writer and less(number, which)
    fits = not late and (ver and not less(ARGV[3], ver) or not ver and ARGV[2] == 'max')
else
    fits = ver == ARGV[3] and (ARGV[4] == '' or ARGV[4] == by)
end
if not fits then
    return { ver or '', by or '' }
end
local more = undeclared(KEYS[2], 4)
if more then
    return more
end

redis.call('UNLINK', KEYS[2])
for place = 4, #KEYS do
    redis.call('UNLINK', KEYS[place])
end
for place, name in ipairs({ 'v', 'who', 'transport' }) do
    if there[place + 2] then
        redis.call('HSET', KEYS[2], name, there[place + 2])
    end
end
local count = tonumber(ARGV[8])
set(KEYS[2], ARGV[5], ARGV[6], 9, count)
local at, failed = logs(9 + count, ARGV[7])
if not at then
    return failed
end
if ARGV[at] == '1' then
    remember(KEYS[3], at + 1)
end
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return 1
