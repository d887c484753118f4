-- Shared by the scripts of groups that have a history: positions and stored messages.
--
-- A hash holds the epoch of a group and the number of its latest message. A stream holds
-- the latest messages, by their numbers. Either can be lost without the other, so a new
-- epoch continues the numbers of the stream, which cannot be added in any other order,
-- and removes what it holds. The key stays: while Redis Cluster moves the keys, it
-- refuses a command on a key that the script has just deleted.

-- Returns the number after which a new epoch begins.
local function begin_epoch(position, history, epoch, last)
  if redis.call('EXISTS', history) == 1 then
    local info = redis.call('XINFO', 'STREAM', history)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        last = math.max(last, tonumber(string.match(info[i + 1], '^%d+')))
      end
    end
  end
  -- First, as it needs memory: Redis refuses no command after a script's first write.
  redis.call('HSET', position, 'epoch', epoch, 'last', string.format('%.0f', last))
  redis.call('XTRIM', history, 'MAXLEN', 0)
  return last
end

-- Numbers a message and stores it. Returns its epoch, its offset, and whether it is new:
-- it is not if the key `once` holds the position of the same message.
--
-- options: a new epoch; milliseconds to keep the position; maximum number of messages;
-- milliseconds to keep them; milliseconds to remember `once`
-- render: a function that returns the value to store for a position
local function number(history, position, once, options, render)
  if once then
    local sent = redis.call('GET', once)
    if sent then
      local epoch, offset = string.match(sent, '^(%x+)%.(%d+)$')
      return epoch, offset, false
    end
  end
  local epoch = redis.call('HGET', position, 'epoch')
  if not epoch then
    epoch = options[1]
    begin_epoch(position, history, epoch, 0)
  end
  local offset = string.format('%.0f', redis.call('HINCRBY', position, 'last', 1))
  redis.call('PEXPIRE', position, options[2])
  redis.call(
    'XADD', history, 'MAXLEN', '~', options[3], offset .. '-0',
    'v', render(epoch .. '.' .. offset)
  )
  redis.call('PEXPIRE', history, options[4])
  if once then
    redis.call('SET', once, epoch .. '.' .. offset, 'PX', options[5])
  end
  return epoch, offset, true
end
