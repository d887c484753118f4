-- Removes channels from groups.
--
-- KEYS: the groups
-- ARGV: for each group: the number of channels, and their names
-- Returns the indexes of the groups whose keys have another type.

local wrong = {}
local at = 1
for i, group in ipairs(KEYS) do
  local count = tonumber(ARGV[at])
  local removed = redis.pcall('ZREM', group, unpack(ARGV, at + 1, at + count))
  at = at + count + 1
  if type(removed) ~= 'number' then
    if not string.find(removed.err, 'WRONGTYPE', 1, true) then
      return removed
    end
    wrong[#wrong + 1] = i - 1
  end
end
return wrong
