-- Remembers the largest number of slots that sessions were ever made in. KEYS: slots. ARGV: number. Answers it.
local made = tonumber(redis.call('GET', KEYS[1]) or '0')
if made and made < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], ARGV[1])
    return tonumber(ARGV[1])
end
return made
