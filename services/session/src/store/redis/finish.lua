-- Behind every script that changes a session: writes what is said from ARGV[at] on. `ver` is the version to be, `by` the writer,
-- `life` in ms, `look` whether it is to be seen to how long the session has still to live; `new` if it has no end yet.
-- ARGV: fields to set (number, then names and values), fields to delete (number, names), steps of logs (number, then for each the
-- place of its key in KEYS, what is to be done and with what), and what is to be remembered (0, or 1 and five more, see below).
-- Zeros at the end are left out.
-- Answers 1, or 2 if the life of the session was renewed and that of its other keys should be.
--
-- Written in one piece, with few numbers and few texts: for each call Redis makes every function anew, a number is text outside of
-- Lua, and of each text that is made inside Lua reads every byte.
local session = KEYS[2]
local first, last = at + 1, at + ARGV[at]
local gone = last + 2
local deleted = ARGV[gone - 1] or '0'
at = gone + deleted

local steps = ARGV[at] or '0'
if steps ~= '0' then
    steps = tonumber(steps)
    for _ = 1, steps do
        local key, step = KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2]
        if step == 'add' then
            local added = redis.pcall('XADD', key, ARGV[at + 3], 'm', ARGV[at + 4])
            if type(added) == 'table' and added.err then
                return string.find(added.err, 'equal or smaller', 1, true) and -1 or added
            end
            if call('PTTL', key) < 0 then
                call('PEXPIRE', key, life)
            end
            at = at + 4
        elseif step == 'keep' then
            call('XTRIM', key, 'MAXLEN', ARGV[at + 3])
            at = at + 3
        else
            call('UNLINK', key)
            at = at + 2
        end
    end
end
at = at + 1

call('HSET', session, 'ver', ver, 'by', by, unpack(ARGV, first, math.min(first + 999, last)))
for more = first + 1000, last, 1000 do
    call('HSET', session, unpack(ARGV, more, math.min(more + 999, last)))
end
if deleted ~= '0' then
    call('HDEL', session, unpack(ARGV, gone, gone + deleted - 1))
end

-- The answer ARGV[at + 2] is kept under ARGV[at + 1] for $KEPT_MS and some more. Entry n of the hash is that of the nth answer: its
-- bytes and its name, ARGV[at + 3]. At least the last ARGV[at + 5] are kept, and half as many again before the oldest of them go
-- together, unless all have more than $BYTES. ARGV[at + 4] is the date of the writer.
if ARGV[at] == '1' then
    local done, name = KEYS[3], 'k' .. ARGV[at + 1]
    local head = call('HMGET', done, 'next', 'oldest', 'bytes', 'until', name)
    if not head[5] then
        local place, entry, now, most = head[1] or '0', ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
        local oldest, bytes = head[2] or '0', (head[3] or 0) + string.match(entry, '^%d+')
        local coming, due = place + 1, 0
        if coming - oldest > most * 1.5 then
            due = coming - most
        end
        while oldest - due < 0 or (bytes > $BYTES and oldest - place < 0) do
            local some, next = {}, oldest + 1
            for each = oldest, math.max(oldest, math.min(due - 1, oldest + 99)) do
                some[#some + 1], next = each, each + 1
            end
            for _, kept in ipairs(call('HMGET', done, unpack(some))) do
                local size, whose = string.match(kept or '', '^(%d+) (.*)$')
                bytes, some[#some + 1] = bytes - (size or 0), 'k' .. (whose or '')
            end
            call('HDEL', done, unpack(some))
            oldest = next
        end
        call('HSET', done, name, ARGV[at + 2], place, entry, 'next', coming, 'oldest', oldest, 'bytes', bytes)
        -- The key lives longer than it has to, so that only some answers prolong it, and look to the session. Clocks differ, so each
        -- owner waits for a date of its own: `<date>.<epoch>`.
        local date, whose = string.match(head[4] or '', '^(%d+)%.(%d+)$')
        if whose ~= ARGV[1] or now - date > 0 then
            call('HSET', done, 'until', string.format('%.0f.%s', now + $KEPT_MS * 0.1, ARGV[1]))
            call('PEXPIRE', done, string.format('%.0f', $KEPT_MS * 1.1))
        else
            look = look == 'new'
        end
    end
end

if look and call('PTTL', session) < life * 0.9 then
    call('PEXPIRE', session, life)
    return 2
end
return 1
