-- Sends one message to all members of a group. The members of one process share a
-- queue, whose name ends with a '!', and get one value, which lists them.
--
-- KEYS: 1 the group
--       2 the processes
-- ARGV: 1 for how many seconds a member stays
--       2 what the keys of queues start with
--       3 how many messages may wait in a queue
--       4 for how many seconds they may
--       5 how the list is written: 'msgpack' or 'json'
--       6 the value up to the list
--       7 the value after the list
-- Returns the names of the queues that were full.

local names, channels, drop_others = living_members(KEYS[1], KEYS[2], tonumber(ARGV[1]))
local capacity, expiry = tonumber(ARGV[3]), tonumber(ARGV[4])
local write = ARGV[5] == 'json' and cjson.encode or cmsgpack.pack
local full = {}
for _, name in ipairs(names) do
  local value = ARGV[6] .. write(channels[name]) .. ARGV[7]
  if enqueue(ARGV[2] .. name, value, capacity, expiry) == 0 then
    full[#full + 1] = name
  end
end
drop_others()
return full
