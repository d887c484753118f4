-- Sends one message to all members of a group. The members of one process share a
-- queue, whose name ends with a '!', and get one value that lists them.
--
-- It builds the keys of queues from the members that it reads, so it is only for a
-- single host: a cluster requires all keys in KEYS. There, and on several hosts,
-- members.lua and then one send.lua for each queue do the same.
--
-- KEYS: 1 the group
--       2 the leases of processes
-- ARGV: 1 seconds that a member stays in the group
--       2 the prefix of the keys of queues
--       3 the capacity of the queue of a process
--       4 the capacity of a plain channel; '' if each has its own
--       5 seconds that a message can wait in a queue
--       6 the encoding of the list: 'msgpack' or 'json'
--       7 the value up to the list
--       8 the value after the list
-- Returns the names of the queues that were full; and the plain channels to which
-- nothing was sent, because each has its own capacity.

local now = seconds()
local names, channels, drop_others =
  living_members(KEYS[1], KEYS[2], tonumber(ARGV[1]), now)
local process_capacity, capacity = tonumber(ARGV[3]), tonumber(ARGV[4])
local expiry = tonumber(ARGV[5])
local write = ARGV[6] == 'json' and cjson.encode or cmsgpack.pack
local full, unsent = {}, {}
for _, name in ipairs(names) do
  local limit = string.sub(name, -1) == '!' and process_capacity or capacity
  if limit then
    local value = ARGV[7] .. write(channels[name]) .. ARGV[8]
    if enqueue(ARGV[2] .. name, value, limit, expiry, now) == 0 then
      full[#full + 1] = name
    end
  else
    unsent[#unsent + 1] = name
  end
end
drop_others()
return { full, unsent }
