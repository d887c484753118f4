-- Shared by send.lua and group_send.lua: prepended to each of them.

-- Appends a value to a queue at the time `now`, and drops messages older than `expiry`
-- seconds. Returns 0 if `capacity` messages are waiting there, and 1 otherwise.
--
-- Without memory, Redis refuses a command only before the script's first write, so the
-- first write is the one that needs memory.
local function enqueue(queue, value, capacity, expiry, now)
  local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2]
  local score, oldest = now, nil
  if last then
    oldest = string.format('(%.6f', now - expiry)
    if
      redis.call('ZCARD', queue) >= capacity
      and redis.call('ZCOUNT', queue, oldest, '+inf') >= capacity
    then
      return 0
    end
    -- Keep the order, even if the clock went back or another sender's clock is ahead.
    last = tonumber(last)
    if last >= now then
      score = last + 0.000001
    end
  end
  redis.call('ZADD', queue, score, value)
  if last then
    redis.call('ZREMRANGEBYSCORE', queue, '-inf', oldest)
  end
  redis.call('PEXPIRE', queue, math.ceil(expiry * 1000))
  return 1
end
