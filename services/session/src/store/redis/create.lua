-- A new session. KEYS: fence, session. ARGV: epoch, by, life in ms, fields.
local there = call('HMGET', KEYS[2], 'ver', 'by')
if there[1] or there[2] then
    if there[1] == '0' and there[2] == ARGV[2] then
        return 1
    end
    return { there[1] or '', there[2] or '' }
end
call('HSET', KEYS[2], 'ver', '0', 'by', ARGV[2], unpack(ARGV, 4))
call('PEXPIRE', KEYS[2], ARGV[3])
return 1
