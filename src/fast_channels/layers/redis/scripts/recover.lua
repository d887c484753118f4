-- Recovers what a receiver of a plain channel held when it died, for other receivers. A
-- message that has had too many receivers that died is a dead letter.
--
-- KEYS: 1 the receivers, by the times at which their leases end
--       2 what the dead receiver held
--       3 recovered messages
--       4 how many receivers each of them has had that died
--       5 dead letters
-- ARGV: 1 the name of the dead receiver
--       2 milliseconds that a recovered message can wait
--       3 milliseconds to remember how many receivers it has had
--       4 deliveries after which a message is a dead letter; 0 for any number
--       5 milliseconds to keep dead letters
--       6 how many of them to keep, the latest
-- Returns how many messages wait for other receivers, and how many are dead letters.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local receivers, held, recovered, deaths, letters = unpack(KEYS)

local lease = redis.call('ZSCORE', receivers, ARGV[1])
if not lease or tonumber(lease) > now then
  -- Another receiver was first, or this one lives after all.
  return { 0, 0 }
end
-- The first write: Redis refuses those that need memory while it has none, and lets all
-- others pass once a script has written.
redis.call('ZREM', receivers, ARGV[1])
local messages = redis.call('ZRANGE', held, 0, -1)
local most, given_up = tonumber(ARGV[4]), 0
for i, message in ipairs(messages) do
  local died = redis.call('HINCRBY', deaths, message, 1)
  if most > 0 and died >= most then
    redis.call('HDEL', deaths, message)
    redis.call('ZADD', letters, now, message)
    given_up = given_up + 1
  else
    -- In the order that they had.
    redis.call('ZADD', recovered, now + i / 1000000, message)
  end
end
redis.call('DEL', held)
if #messages > given_up then
  redis.call('PEXPIRE', recovered, ARGV[2])
  redis.call('PEXPIRE', deaths, ARGV[3])
end
if given_up > 0 then
  redis.call('ZREMRANGEBYRANK', letters, 0, -ARGV[6] - 1)
  redis.call('PEXPIRE', letters, ARGV[5])
end
return { #messages - given_up, given_up }
