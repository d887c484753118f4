-- Takes the next batch of messages from the queue of a process. The batch is kept until
-- the receiver confirms it: if the reply was lost, or an old connection took a batch
-- whose reply is never read, the receiver gets that batch.
--
-- KEYS: 1 the queue
--       2 the kept batch: its messages, and its number as the score of a mark
-- ARGV: 1 the number of the batch
--       2 the number of the last batch that the receiver has
--       3 the maximum number of messages to take; '0' to confirm only
--       4 the maximum number of bytes to take, unless the first message is larger
--       5 seconds that a message can wait in the queue
--       6 '1' to drop messages that have waited longer
--       7 milliseconds to keep the batch
-- Returns the time, the number of the batch, and each message with its score.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
-- A string, because a number would lose its decimals in the reply.
local reply = { string.format('%.6f', now), ARGV[1] }

-- No message equals it.
local mark = '\0the number of this batch, which is no message'
local number = redis.call('ZSCORE', KEYS[2], mark)
if number and tonumber(number) ~= tonumber(ARGV[2]) then
  reply[2] = number
  local kept = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
  for i = 1, #kept, 2 do
    if kept[i] ~= mark then
      reply[#reply + 1] = kept[i]
      reply[#reply + 1] = kept[i + 1]
    end
  end
  return reply
end

local messages = {}
local drops_old = ARGV[6] == '1'
local old = now - tonumber(ARGV[5])
if ARGV[3] == '0' then
  drops_old = false
elseif drops_old then
  local range = string.format('(%.6f', old)
  messages =
    redis.call('ZRANGEBYSCORE', KEYS[1], range, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
else
  messages = redis.call('ZRANGE', KEYS[1], 0, ARGV[3] - 1, 'WITHSCORES')
end
local kept, bytes = {}, 0
for i = 1, #messages, 2 do
  bytes = bytes + #messages[i]
  if i > 1 and bytes > tonumber(ARGV[4]) then
    break
  end
  kept[i], kept[i + 1] = messages[i + 1], messages[i]
  reply[#reply + 1] = messages[i]
  reply[#reply + 1] = messages[i + 1]
end

-- The first write needs no memory: without memory, Redis refuses commands only before a
-- script's first write. Taking messages out of a queue frees memory.
--
-- No key is deleted and then used again: while Redis Cluster moves the keys, it refuses
-- a command on a key that does not exist, even if the script has just deleted it.
if #kept > 0 then
  -- All but the mark, which has the lowest score.
  redis.call('ZREMRANGEBYRANK', KEYS[2], 1, -1)
  redis.call('ZADD', KEYS[2], ARGV[1], mark, unpack(kept))
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
else
  redis.call('DEL', KEYS[2])
end
if drops_old then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', old))
end
if #kept > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #kept / 2 - 1)
end
return reply
