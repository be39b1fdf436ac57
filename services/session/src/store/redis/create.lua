-- A new session. KEYS: fence, session. ARGV: epoch, by, life in ms, fields.
local refusal = unfenced()
if refusal then
    return refusal
end
local there = redis.call('HMGET', KEYS[2], 'ver', 'by')
if there[1] or there[2] then
    if there[1] == '0' and there[2] == ARGV[2] then
        return 1
    end
    return { there[1] or '', there[2] or '' }
end
set(KEYS[2], '0', ARGV[2], 4, #ARGV - 3)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
