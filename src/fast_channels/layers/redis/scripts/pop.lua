-- Takes messages from a queue, and keeps them aside until the next batch is asked for.
--
-- A receiver numbers its batches. When the reply is lost it asks for the same batch
-- again, and gets the same messages. When it asks for the next one, the last has been
-- handed over.
--
-- KEYS: 1 the queue
--       2 where this batch is kept
--       3 where the last batch is kept
--       4 the receivers of the queue with the times at which their leases end, if it
--         may have several
-- ARGV: 1 how many messages, at most
--       2 for how many seconds a message may wait in the queue
--       3 '1' to drop those that have waited for longer
--       4 for how many milliseconds the batch is kept
--       5 the name of this receiver
--       6 for how many seconds its lease lasts
--       7 what the keys start with under which receivers keep batches of this queue
-- Returns the time, and then each message and its score.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local expiry = tonumber(ARGV[2])
local ttl = math.ceil(expiry * 1000)

if KEYS[4] then
  redis.call('ZADD', KEYS[4], now + tonumber(ARGV[6]), ARGV[5])
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
  -- What a receiver held that has not been heard of comes back to the queue.
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 10)) do
    for slot = 0, 1 do
      local held = ARGV[7] .. dead .. ':' .. slot
      local batch = redis.call('ZRANGE', held, 0, -1, 'WITHSCORES')
      for i = 1, #batch, 2 do
        redis.call('ZADD', KEYS[1], batch[i + 1], batch[i])
        redis.call('PEXPIRE', KEYS[1], ttl)
      end
      redis.call('DEL', held)
    end
    redis.call('ZREM', KEYS[4], dead)
  end
end

redis.call('DEL', KEYS[3])
local reply = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
if #reply == 0 then
  if ARGV[3] == '1' then
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - expiry)
  end
  reply = redis.call('ZPOPMIN', KEYS[1], ARGV[1])
  if #reply > 0 then
    local kept = {}
    for i = 1, #reply, 2 do
      kept[i], kept[i + 1] = reply[i + 1], reply[i]
    end
    redis.call('ZADD', KEYS[2], unpack(kept))
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
  end
end
-- A text, as a number would lose what is after the point.
table.insert(reply, 1, string.format('%.6f', now))
return reply
