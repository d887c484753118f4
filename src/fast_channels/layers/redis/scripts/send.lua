-- Sends one message to one channel.
--
-- KEYS: 1 the queue of the channel
-- ARGV: 1 the value
--       2 how many messages may wait
--       3 for how many seconds they may
-- Returns 1, or 0 if the queue is full.

return enqueue(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
