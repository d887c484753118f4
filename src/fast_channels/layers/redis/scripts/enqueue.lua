-- What send.lua and group_send.lua share: it is put before each of them.

-- Appends a value to a queue of which what is older than `expiry` seconds is dropped.
-- Returns 0 if `capacity` messages wait there, and 1 otherwise.
--
-- Redis without memory refuses a script only before it has written, so the first write
-- is the one that takes memory.
local function enqueue(queue, value, capacity, expiry)
  local now = seconds()
  local oldest = now - expiry
  local score = now
  -- A text, as a number would lose what is after the point.
  local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2]
  if last then
    if redis.call('ZCARD', queue) >= capacity then
      local waiting = redis.call('ZCOUNT', queue, string.format('(%.6f', oldest), '+inf')
      if waiting >= capacity then
        return 0
      end
    end
    -- Behind the last, whatever a clock did since, or the one of another sender says.
    last = tonumber(last)
    if last >= now then
      score = last + 0.000001
    end
  end
  redis.call('ZADD', queue, score, value)
  if last then
    redis.call('ZREMRANGEBYSCORE', queue, '-inf', string.format('%.6f', oldest))
  end
  redis.call('PEXPIRE', queue, math.ceil(expiry * 1000))
  return 1
end
