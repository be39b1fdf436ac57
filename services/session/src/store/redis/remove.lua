-- The end of a session. KEYS: fence, session, done, logs. ARGV: epoch.
local more = undeclared(KEYS[2], 4)
if more then
    return more
end
for place = 2, #KEYS do
    call('UNLINK', KEYS[place])
end
return 1
