-- Sends one message to one channel.
--
-- KEYS: 1 the queue of the channel
-- ARGV: 1 the value
--       2 the capacity of the queue
--       3 seconds that a message can wait there
-- Returns 1, or 0 if the queue is full.

return enqueue(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), seconds())
