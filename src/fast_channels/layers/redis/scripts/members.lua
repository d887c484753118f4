-- Reads the members of a group; those that joined too long ago are dropped.
--
-- KEYS: 1 the group
-- ARGV: 1 for how many seconds a member stays
-- Returns the names of channels.

local time = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time - tonumber(ARGV[1]))
return redis.call('ZRANGE', KEYS[1], 0, -1)
