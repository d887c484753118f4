-- Shared by the scripts of groups: which processes are alive.
--
-- A sorted set holds the end of each process's lease and, under the empty name, the
-- time of the latest renewal by any of them. A process is known to be dead if its lease
-- ended before that time, which stands for the present: no lease can be renewed while
-- Redis itself is frozen or cut off, so time without any renewal ends no lease.
-- A process that is not in the set is not known to be dead: it can belong to another
-- library, or Redis has lost the set.

-- Renews the lease of a process. Returns 1 if it was in the set and alive, 0 otherwise.
local function renew(processes, process, lease, group_expiry)
  local now = seconds()
  local heard = tonumber(redis.call('ZSCORE', processes, '') or now)
  local ends = tonumber(redis.call('ZSCORE', processes, process) or '-inf')
  local steady = math.abs(now - heard) < lease / 2
  if steady and ends - now > 0.9 * lease then
    -- Leave a lease that is almost new alone, to keep joining groups cheap.
    return 1
  end
  -- ZREM comes first: it needs no memory, and Redis does not refuse what follows it.
  redis.call('ZREM', processes, process)
  if not steady then
    -- Redis was away or its clock was changed: renew all leases that had not ended.
    local living = redis.call('ZRANGEBYSCORE', processes, heard, '+inf')
    for _, each in ipairs(living) do
      redis.call('ZADD', processes, now + lease, each)
    end
  end
  redis.call('ZADD', processes, now, '', now + lease, process)
  -- Processes whose leases ended that long ago have no members left in any group.
  redis.call('ZREMRANGEBYSCORE', processes, '-inf', now - group_expiry)
  redis.call('PEXPIRE', processes, math.ceil((group_expiry + lease) * 1000))
  return ends >= heard and 1 or 0
end

-- Returns a function that tests whether a process is known to be dead; nil if none is.
local function make_is_dead(processes)
  local heard = redis.call('ZSCORE', processes, '')
  local count = heard and redis.call('ZCOUNT', processes, '-inf', '(' .. heard) or 0
  if count == 0 then
    return nil
  end
  if count > 100 then
    return function(process)
      local ends = redis.call('ZSCORE', processes, process)
      return ends and tonumber(ends) < tonumber(heard)
    end
  end
  -- One command is cheaper than one for each process of a group.
  local dead = {}
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', '(' .. heard)) do
    dead[each] = true
  end
  return function(process)
    return dead[process]
  end
end

-- Reads the members of a group, except those that are too old or whose process is dead.
-- A stand-in is a member like any other.
-- Returns the names of their queues, in order; the members by these names; and a
-- function that removes the other members. A script calls it last: without memory,
-- Redis refuses a command only before the script's first write.
local function living_members(group, processes, group_expiry, now)
  local oldest = now - group_expiry
  local names, members, dead = {}, {}, {}
  local range = string.format('(%.6f', oldest)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', group, range, '+inf')) do
    local mark = string.find(member, '!', 1, true)
    local name = mark and string.sub(member, 1, mark) or member
    if members[name] then
      table.insert(members[name], member)
    else
      names[#names + 1] = name
      members[name] = { member }
    end
  end
  local is_dead = make_is_dead(processes)
  if is_dead then
    local living = {}
    for _, name in ipairs(names) do
      local process = string.match(name, '^.*%.([^.]+%.[^.]+)!$')
      if process and is_dead(process) then
        dead[#dead + 1] = name
      else
        living[#living + 1] = name
      end
    end
    names = living
  end
  return names, members, function()
    redis.call('ZREMRANGEBYSCORE', group, '-inf', string.format('%.6f', oldest))
    for _, name in ipairs(dead) do
      for first = 1, #members[name], 1000 do
        local last = math.min(first + 999, #members[name])
        redis.call('ZREM', group, unpack(members[name], first, last))
      end
    end
  end
end
