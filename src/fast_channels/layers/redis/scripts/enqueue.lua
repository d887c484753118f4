-- What send.lua and group_send.lua share: it is put before each of them.

-- Returns the time of the server, in seconds; no client's clock counts.
local function seconds()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

-- Appends a value to a queue of which what is older than `expiry` seconds is dropped.
-- Returns 0 if `capacity` messages wait there, and 1 otherwise.
local function enqueue(queue, value, capacity, expiry)
  local now = seconds()
  redis.call('ZREMRANGEBYSCORE', queue, '-inf', now - expiry)
  local waiting = redis.call('ZCARD', queue)
  if waiting >= capacity then
    return 0
  end
  if waiting > 0 then
    -- Behind the last, whatever a clock did since, or the one of another sender says.
    local last = tonumber(redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2])
    if last >= now then
      now = last + 0.000001
    end
  end
  redis.call('ZADD', queue, now, value)
  redis.call('PEXPIRE', queue, math.ceil(expiry * 1000))
  return 1
end
