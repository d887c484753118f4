-- Reads the members of a group; those that joined too long ago, or whose process is
-- known to be dead, are dropped.
--
-- KEYS: 1 the group
--       2 the processes
-- ARGV: 1 for how many seconds a member stays
-- Returns the names of channels.

local names, members, drop_others = living_members(KEYS[1], KEYS[2], tonumber(ARGV[1]))
drop_others()
local all = {}
for _, name in ipairs(names) do
  for _, member in ipairs(members[name]) do
    all[#all + 1] = member
  end
end
return all
