-- In front of every script that writes. KEYS[1] is the fence of the slot, ARGV[1] the epoch of the writer. Epochs and versions
-- are decimal numbers without leading zeros, compared as such: they may be larger than what a number of Lua holds exactly.
-- Refusals: -1 = a higher epoch is known, -2 = the writer's own is not known, a table = another version is there.
local function less(a, b)
    if #a ~= #b then
        return #a < #b
    end
    return a < b
end

local function unfenced()
    local fence = redis.call('GET', KEYS[1])
    if fence == ARGV[1] then
        return nil
    elseif fence and less(ARGV[1], fence) then
        return -1
    end
    return -2
end

-- Who committed last is written `<epoch>.<store>.<number>`. It convicts a writer even if the fence was lost.
local function outdated(by)
    return by and less(ARGV[1], string.match(by, '^%d+') or '')
end

-- Sets the fields ARGV[from] and so on, names and values, with version and writer in front.
local function set(key, ver, by, from, count)
    local to = from + count - 1
    redis.call('HSET', key, 'ver', ver, 'by', by, unpack(ARGV, from, math.min(from + 999, to)))
    for first = from + 1000, to, 1000 do
        redis.call('HSET', key, unpack(ARGV, first, math.min(first + 999, to)))
    end
end

-- Keeps the answer ARGV[from + 1] under the name ARGV[from]; it counts for ARGV[from + 2]. At most ARGV[from + 3] are kept, of
-- ARGV[from + 4] bytes, for ARGV[from + 5] milliseconds. Entry n of the hash is `<bytes> <name>`.
local function remember(key, from)
    local name, size = ARGV[from], tonumber(ARGV[from + 2])
    local head = redis.call('HMGET', key, 'next', 'oldest', 'bytes', 'k' .. name)
    if head[4] then
        return
    end
    local coming, oldest = tonumber(head[1] or 0), tonumber(head[2] or 0)
    local bytes = tonumber(head[3] or 0) + size
    local time = redis.call('TIME')
    local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
    redis.call('HSET', key, 'k' .. name, now .. ' ' .. ARGV[from + 1], coming, size .. ' ' .. name)
    coming = coming + 1
    while coming - oldest > tonumber(ARGV[from + 3]) or bytes > tonumber(ARGV[from + 4]) do
        local gone, of = string.match(redis.call('HGET', key, oldest) or '', '^(%d+) (.*)$')
        redis.call('HDEL', key, oldest, 'k' .. (of or ''))
        bytes, oldest = bytes - tonumber(gone or 0), oldest + 1
    end
    redis.call('HSET', key, 'next', coming, 'oldest', oldest, 'bytes', bytes)
    redis.call('PEXPIRE', key, ARGV[from + 5])
end

-- Does what is said from ARGV[at] on to the logs: their number, then for each the place of its key in KEYS, what is to be done
-- and with what. Gives where it ends, or nil and what is to be answered.
local function logs(at, life)
    local count = tonumber(ARGV[at])
    at = at + 1
    for _ = 1, count do
        local key, step = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
        if step == 'add' then
            local added = redis.pcall('XADD', key, ARGV[at + 2], 'm', ARGV[at + 3])
            if type(added) == 'table' and added.err then
                return nil, string.find(added.err, 'equal or smaller', 1, true) and -1 or added
            end
            if redis.call('PTTL', key) < 0 then
                redis.call('PEXPIRE', key, life)
            end
            at = at + 4
        elseif step == 'keep' then
            redis.call('XTRIM', key, 'MAXLEN', ARGV[at + 2])
            at = at + 3
        else
            redis.call('UNLINK', key)
            at = at + 2
        end
    end
    return at
end

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
