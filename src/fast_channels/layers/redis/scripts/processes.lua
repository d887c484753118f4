-- What the scripts of groups share: which processes are alive.
--
-- A sorted set holds when the lease of each process ends, and under the empty name when
-- any of them was heard from last. A process is known to be dead if its lease had ended
-- by then. That moment stands for the present, as no lease can be renewed while Redis
-- itself is frozen or cut off: time in which Redis hears from no process ends no lease.
-- A process that is not in the set is not known to be dead: it may belong to
-- another library, or Redis has lost the set.

-- Renews the lease of a process. Returns 1 if it was in the set and alive, 0 otherwise.
local function renew(processes, process, lease, group_expiry)
  local now = seconds()
  local heard = tonumber(redis.call('ZSCORE', processes, '') or now)
  local ends = tonumber(redis.call('ZSCORE', processes, process) or '-inf')
  local steady = math.abs(now - heard) < lease / 2
  if steady and ends - now > 0.9 * lease then
    -- A lease that is as good as new is left alone: joining is to cost little.
    return 1
  end
  -- Removing comes first, as Redis allows it without memory, and what follows it too.
  redis.call('ZREM', processes, process)
  if not steady then
    -- Redis was away, or its clock was changed: the living have not died meanwhile.
    local living = redis.call('ZRANGEBYSCORE', processes, heard, '+inf')
    for _, each in ipairs(living) do
      redis.call('ZADD', processes, now + lease, each)
    end
  end
  redis.call('ZADD', processes, now, '', now + lease, process)
  -- By the time that these go, no group has had a member of theirs for long.
  redis.call('ZREMRANGEBYSCORE', processes, '-inf', now - group_expiry)
  redis.call('PEXPIRE', processes, math.ceil((group_expiry + lease) * 1000))
  return ends >= heard and 1 or 0
end

-- Returns a function that tells whether a process is known to be dead, or nil if none is.
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
  -- One command costs less than one for each process of a group.
  local dead = {}
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', '(' .. heard)) do
    dead[each] = true
  end
  return function(process)
    return dead[process]
  end
end

-- Reads the members of a group that are neither too old nor of a dead process. Returns
-- the names that they share by process, in order; the members by these names; and a
-- function that removes the others. A script calls that last: Redis without memory
-- refuses a script only before it has written.
local function living_members(group, processes, group_expiry)
  local oldest = seconds() - group_expiry
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
