-- The whole of a session, instead of whatever is there.
-- KEYS: fence, session, done, logs. ARGV: epoch, what may be there (`max`: a version up to, or nothing, `old`: a version up to,
-- `is`: just this one), that version,
-- by whom (empty = anybody), the version to be, by, life in ms, and what is written. Whose session it is stays, unless it is among
-- the fields.
local there = redis.pcall('HMGET', KEYS[2], 'ver', 'by', 'v', 'who', 'transport')
if there.err then
    if ARGV[2] ~= 'max' then
        return there
    end
    there = {}
end
local ver, by = ARGV[5], ARGV[6]
local known, whom = there[1], there[2]
if whom and less(ARGV[1], string.match(whom, '^%d+') or '') then
    return -1
end
if known == ver and whom == by then
    call('HSET', KEYS[2], 'by', by)
    return 1
end
local fits
if ARGV[2] == 'max' or ARGV[2] == 'old' then
    -- One that was given up and comes late takes nobody's place: its writer has written since.
    local whose, which = string.match(whom or '', '^(.*)%.(%d+)$')
    local writer, number = string.match(by, '^(.*)%.(%d+)$')
    local late = whose and whose == writer and less(number, which)
    if known then
        fits = not late and not less(ARGV[3], known)
    else
        fits = ARGV[2] == 'max' and redis.pcall('HEXISTS', KEYS[3], 'over') ~= 1
    end
else
    fits = known == ARGV[3] and (ARGV[4] == '' or ARGV[4] == whom)
end
if not fits then
    return { known or '', whom or '' }
end
local more = undeclared(KEYS[2], 4)
if more then
    return more
end

call('UNLINK', KEYS[2])
for place = 4, #KEYS do
    call('UNLINK', KEYS[place])
end
for place, name in ipairs({ 'v', 'who', 'transport' }) do
    if there[place + 2] then
        call('HSET', KEYS[2], name, there[place + 2])
    end
end
local life, look, at = ARGV[7], 'new', 8
