-- Reads the members of a group, and removes those that joined too long ago or whose
-- process is known to be dead.
--
-- KEYS: 1 the group
--       2 the leases of processes
-- ARGV: 1 seconds that a member stays in the group
-- Returns the names of the members.

local names, members, drop_others =
  living_members(KEYS[1], KEYS[2], tonumber(ARGV[1]), seconds())
drop_others()
local all = {}
for _, name in ipairs(names) do
  for _, member in ipairs(members[name]) do
    all[#all + 1] = member
  end
end
return all
