-- Sends one message to all members of a group. The members of one process share a
-- queue, whose name ends with a '!', and get one value that lists them.
--
-- KEYS: 1 the group
--       2 the leases of processes
-- ARGV: 1 seconds that a member stays in the group
--       2 the prefix of the keys of queues
--       3 the capacity of a queue
--       4 seconds that a message can wait there
--       5 the encoding of the list: 'msgpack' or 'json'
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
