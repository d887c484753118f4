-- Ends what a receiver does with a queue: what it has handed over is forgotten, and
-- what it has not, or has never seen, goes back. Said twice it has no effect the second
-- time.
--
-- KEYS: 1 the queue
--       2 where the last batch is kept
--       3 where the next one is kept, if it was asked for
--       4 the receivers of the queue, if it may have several
-- ARGV: 1 for how many milliseconds a message may wait in the queue
--       2 the name of this receiver
--       3 '1' if messages go back only if the last batch is kept, '0' if it never was
--       4... the score and the value of each message that goes back

local kept = redis.call('DEL', KEYS[2]) == 1
local unseen = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
for i = 1, #unseen, 2 do
  redis.call('ZADD', KEYS[1], unseen[i + 1], unseen[i])
end
redis.call('DEL', KEYS[3])
if kept or ARGV[3] == '0' then
  for i = 4, #ARGV, 2 do
    redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
if #unseen > 0 or ARGV[4] then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
if KEYS[4] then
  redis.call('ZREM', KEYS[4], ARGV[2])
end
