-- Adds channels to a group, or renews the time at which they joined.
--
-- KEYS: 1 the group
-- ARGV: 1 for how many milliseconds the group lives from now
--       2... the names of the channels, at most a few thousand

local time = redis.call('TIME')
local joined = time[1] + time[2] / 1000000
local members = {}
for i = 2, #ARGV do
  members[#members + 1] = joined
  members[#members + 1] = ARGV[i]
end
redis.call('ZADD', KEYS[1], unpack(members))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
