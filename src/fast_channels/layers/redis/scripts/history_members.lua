-- Numbers a message of a group that has a history, stores it, and reads the members of
-- the group: for layers whose sender puts it into the queues.
--
-- KEYS: 1 the group
--       2 the leases of processes
--       3 the stored messages
--       4 the position
--       5 the key of this message, if it is sent once
-- ARGV: 1 seconds that a member stays in the group
--       2 the value to store
--       3-7 the options of number()
-- Returns the epoch and the offset; 1 if the message is new and 0 otherwise; and the
-- names of the members.

local names, members, drop_others =
  living_members(KEYS[1], KEYS[2], tonumber(ARGV[1]), seconds())
local epoch, offset, is_new = number(
  KEYS[3], KEYS[4], KEYS[5], { unpack(ARGV, 3, 7) }, function() return ARGV[2] end
)
drop_others()
local all = {}
for _, name in ipairs(names) do
  for _, member in ipairs(members[name]) do
    all[#all + 1] = member
  end
end
return { epoch, offset, is_new and 1 or 0, all }
