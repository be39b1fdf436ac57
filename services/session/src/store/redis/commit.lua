-- One commit: the fields and logs that its changes touch.
-- KEYS: fence, session, done, logs. ARGV: epoch, version, the next one, by, life in ms, `look` or nothing, and what is written.
local there = call('HMGET', KEYS[2], 'ver', 'by')
local ver, by = ARGV[3], ARGV[4]
-- Who committed last is written `<epoch>.<store>.<number>`. It convicts a writer even if the fence was lost.
if there[2] and less(ARGV[1], string.match(there[2], '^%d+') or '') then
    return -1
end
if there[1] ~= ARGV[2] then
    if there[1] == ver and there[2] == by then
        -- It was done and the answer got lost. Written again for whoever waits for replicas on this connection.
        call('HSET', KEYS[2], 'by', by)
        return 1
    end
    return { there[1] or '', there[2] or '' }
end
local life, look, at = ARGV[5], ARGV[6] == 'look', 7
