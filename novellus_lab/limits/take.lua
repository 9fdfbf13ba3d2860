-- Let calls in, or end them: the arithmetic of bucket.py, in one atomic step and by the server's clock.
--
-- KEYS: for each quota its state (hash) and its calls under way (sorted set: member by end of lease).
-- ARGV: 'take' | 'end' | 'pause', number of quotas, then rpm, tpm, concurrent (-1: not limited), most requests
--       and most tokens of each; then
--   take: lease in microseconds, then member and tokens of each call, in the order of their turn
--   end:  member, tokens used and 'sent' | 'unsent' of each call
--   pause: microseconds for which nothing is let in
-- A member is 'id:tokens', so that a lease that ran out can be charged by who finds it.
-- Returns for take: calls let in; microseconds until the next fits (-1: only a release helps); the
--       quota that it waits for, and its dimension.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local MINUTE = 60000000
local DUST = 1e-9

local function tokens_of(member)
    return tonumber(string.match(member, ':([^:]+)$'))
end

local quotas = {}
local n = tonumber(ARGV[2])
local at = 3
for i = 1, n do
    local q = {
        state = KEYS[2 * i - 1], calls = KEYS[2 * i],
        rpm = tonumber(ARGV[at]), tpm = tonumber(ARGV[at + 1]), concurrent = tonumber(ARGV[at + 2]),
        most_requests = tonumber(ARGV[at + 3]), most_tokens = tonumber(ARGV[at + 4]),
    }
    at = at + 5
    local s = redis.call('HMGET', q.state, 'requests', 'tokens', 'held', 'at', 'paused')
    local last = tonumber(s[4]) or now
    if last > now then last = now end
    q.requests, q.tokens, q.held = q.most_requests, q.most_tokens, 0
    if q.rpm > 0 and s[1] then
        q.requests = math.min(q.requests, s[1] + (now - last) * q.rpm / MINUTE)
    end
    if q.tpm > 0 and s[2] then
        q.tokens = math.min(q.tokens, s[2] + (now - last) * q.tpm / MINUTE)
        q.held = tonumber(s[3])
    end
    q.paused = tonumber(s[5]) or 0
    q.lease = 0
    -- A process that died: what it held counts as used.
    local gone = redis.call('ZRANGEBYSCORE', q.calls, '-inf', now, 'LIMIT', 0, 500)
    for _, member in ipairs(gone) do
        local tokens = math.min(tokens_of(member), q.most_tokens)
        q.held = q.held - tokens
        q.tokens = q.tokens - tokens
    end
    if #gone > 0 then
        redis.call('ZREM', q.calls, unpack(gone))
    end
    q.running = redis.call('ZCARD', q.calls)
    -- Sums of many fractions: nothing under way means nothing held.
    if q.running == 0 then q.held = 0 end
    quotas[i] = q
end

local function bucket_wait(level, held, amount, capacity, per_minute)
    local lacking = amount - (level - held)
    if lacking <= DUST * capacity then return 0 end
    if held + amount > capacity * (1 + DUST) then return -1 end
    return math.ceil(lacking * MINUTE / per_minute)
end

local admitted, wait, culprit, why = 0, 0, 0, ''
if ARGV[1] == 'take' then
    local lease = tonumber(ARGV[at])
    at = at + 1
    while at <= #ARGV do
        local member = ARGV[at]
        local tokens = tokens_of(member)
        at = at + 1
        wait = 0
        -- Sent before, and the answer was lost: it is in.
        local known = redis.call('ZSCORE', quotas[1].calls, member)
        for i, q in ipairs(known and {} or quotas) do
            local function worse(w, dimension)
                if wait >= 0 and (w < 0 or w > wait) then
                    wait, culprit, why = w, i, dimension
                end
            end
            if q.paused > now then worse(q.paused - now, 'retry-after') end
            if q.rpm > 0 then worse(bucket_wait(q.requests, 0, 1, q.most_requests, q.rpm), 'rpm') end
            if q.tpm > 0 then
                worse(bucket_wait(q.tokens, q.held, math.min(tokens, q.most_tokens),
                    q.most_tokens, q.tpm), 'tpm')
            end
            if q.concurrent > 0 and q.running >= q.concurrent then worse(-1, 'concurrent') end
        end
        if wait ~= 0 then break end
        for _, q in ipairs(known and {} or quotas) do
            redis.call('ZADD', q.calls, now + lease, member)
            q.running = q.running + 1
            q.requests = q.requests - 1
            q.held = q.held + math.min(tokens, q.most_tokens)
            q.lease = lease
        end
        admitted = admitted + 1
    end
elseif ARGV[1] == 'pause' then
    for _, q in ipairs(quotas) do
        q.paused = math.max(q.paused, now + tonumber(ARGV[at]))
    end
else
    while at <= #ARGV do
        local member, used, sent = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
        at = at + 3
        local tokens = tokens_of(member)
        for _, q in ipairs(quotas) do
            if redis.call('ZREM', q.calls, member) == 1 then
                q.held = q.held - math.min(tokens, q.most_tokens)
                q.tokens = q.tokens - used
                if sent == 'unsent' then
                    q.requests = math.min(q.most_requests, q.requests + 1)
                end
            end
        end
    end
end

for _, q in ipairs(quotas) do
    redis.call('HSET', q.state,
        'requests', string.format('%.6f', q.requests), 'tokens', string.format('%.6f', q.tokens),
        'held', string.format('%.6f', q.held), 'at', string.format('%.0f', now),
        'paused', string.format('%.0f', q.paused))
    -- As old as this, a bucket that nobody asks for is full again, whatever its debt was.
    local keep = 120000 + math.max(math.max(0, q.paused - now), q.lease) / 1000
    if q.tpm > 0 and q.tokens < 0 then keep = keep - q.tokens * 60000 / q.tpm end
    keep = math.ceil(keep)
    for _, key in ipairs({q.state, q.calls}) do
        redis.call('PEXPIRE', key, math.max(keep, redis.call('PTTL', key)))
    end
end
return {admitted, wait, culprit, why}
