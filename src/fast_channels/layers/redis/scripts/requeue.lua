-- Puts the dead letters of a plain channel back into its queue, as if sent now.
--
-- KEYS: 1 the queue
--       2 the dead letters
-- ARGV: 1 milliseconds that a message can wait in the queue
-- Returns the number of messages.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local letters = redis.call('ZRANGE', KEYS[2], 0, -1)
-- Fails before anything is removed if the key holds something else.
redis.call('ZCARD', KEYS[1])
redis.call('DEL', KEYS[2])
for i, message in ipairs(letters) do
  redis.call('ZADD', KEYS[1], now + i / 1000000, message)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return #letters
