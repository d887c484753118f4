-- What scripts share that need the time: it is put before each of them.

-- Returns the time of the server, in seconds; no client's clock counts.
local function seconds()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
