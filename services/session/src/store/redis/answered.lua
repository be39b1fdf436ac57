-- What is remembered under a name, without the date in front of it. KEYS: done. ARGV: name. What is there longer than it has to be is
-- still what was answered.
local kept = redis.call('HGET', KEYS[1], 'k' .. ARGV[1])
return kept and string.match(kept, '^%d+ (.*)$')
