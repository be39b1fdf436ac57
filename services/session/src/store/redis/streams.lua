-- Streams of the session whose keys were not declared from KEYS[first] on; the caller comes back with them.
local function undeclared(session, first)
    local known, more = {}, { '+' }
    for place = first, #KEYS do
        known[string.match(KEYS[place], '(%d+)$')] = true
    end
    local fields = redis.pcall('HKEYS', session)
    for _, field in ipairs(fields.err and {} or fields) do
        local stream = string.match(field, '^t:(%d+)$')
        if stream and not known[stream] then
            more[#more + 1] = stream
        end
    end
    return #more > 1 and more or nil
end
