-- Recovers the messages that a receiver of a plain channel held when it died, for other
-- receivers. A message that too many receivers died with becomes a dead letter.
--
-- KEYS: 1 the queue
--       2 the receivers, scored by the ends of their leases
--       3 the messages that the dead receiver held
--       4 the messages that several receivers died with
--       5 the number of receivers that died with each message
--       6 the dead letters
-- ARGV: 1 the name of the dead receiver
--       2 seconds that a message can wait in the queue
--       3 milliseconds to keep these numbers
--       4 deliveries after which a message is a dead letter; 0 for no limit
--       5 milliseconds to keep dead letters
--       6 the maximum number of dead letters, of which the latest are kept
-- Returns the number of messages for other receivers, and the number of dead letters.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local queue, receivers, held, suspects, deaths, letters = unpack(KEYS)
local expiry, most = tonumber(ARGV[2]), tonumber(ARGV[4])

local lease = redis.call('ZSCORE', receivers, ARGV[1])
if not lease or tonumber(lease) > now then
  -- Another receiver has recovered them, or this one is alive after all.
  return { 0, 0 }
end
-- Before the first write, as what a script has done stays done when it fails: a key that
-- holds something else fails all of it.
local messages = redis.call('ZRANGE', held, 0, -1, 'WITHSCORES')
for _, key in ipairs({ queue, suspects, letters }) do
  redis.call('ZCARD', key)
end
redis.call('HLEN', deaths)
-- The first write: Redis refuses those that need memory while it has none, and lets all
-- others pass once a script has written.
redis.call('PEXPIRE', deaths, ARGV[3])

local given_up = 0
for i = 1, #messages, 2 do
  local message = messages[i]
  local died = redis.call('HINCRBY', deaths, message, 1)
  if most > 0 and died >= most then
    redis.call('HDEL', deaths, message)
    redis.call('ZADD', letters, now, message)
    given_up = given_up + 1
  else
    -- Ahead of other messages, and with enough time left to be taken.
    local score = math.max(math.abs(messages[i + 1]), now - expiry / 2)
    redis.call('ZADD', died > 1 and suspects or queue, score, message)
  end
end
-- Last, so that all is done again if it has failed. While Redis Cluster moves the keys,
-- it refuses commands on those that do not exist.
redis.call('ZREM', receivers, ARGV[1])
redis.call('DEL', held)
for _, key in ipairs({ queue, suspects }) do
  redis.call('PEXPIRE', key, math.ceil(expiry * 1000))
end
redis.call('PEXPIRE', deaths, ARGV[3])
if given_up > 0 then
  redis.call('ZREMRANGEBYRANK', letters, 0, -ARGV[6] - 1)
  redis.call('PEXPIRE', letters, ARGV[5])
end
return { #messages / 2 - given_up, given_up }
