-- Shared by all scripts that need the time: prepended to each of them.

-- Returns the server's time in seconds; clients' clocks are not used.
local function seconds()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
