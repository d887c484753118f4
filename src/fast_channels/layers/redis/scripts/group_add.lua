-- Adds channels to groups, or renews the times at which they joined, and renews the
-- lease of the process that they belong to.
--
-- KEYS: 1 the leases of processes
--       2... the groups
-- ARGV: 1 seconds until the groups expire
--       2 the process, or '' if it is unknown
--       3 seconds that its lease lasts
--       4 'NX' to skip channels that are in their group, 'CH' to renew them
--       5... for each group: the number of channels, and their names
-- Returns 1 if the process was alive and 0 otherwise, and the indexes of the groups
-- whose keys have another type.

local group_expiry = tonumber(ARGV[1])
local now = seconds()
local wrong = {}
local at = 5
for i = 2, #KEYS do
  local members = {}
  local count = tonumber(ARGV[at])
  for j = at + 1, at + count do
    members[#members + 1] = now
    members[#members + 1] = ARGV[j]
  end
  at = at + count + 1
  local added = redis.pcall('ZADD', KEYS[i], ARGV[4], unpack(members))
  if type(added) == 'number' then
    if added > 0 then
      redis.call('PEXPIRE', KEYS[i], math.ceil(group_expiry * 1000))
    end
  elseif string.find(added.err, 'WRONGTYPE', 1, true) then
    wrong[#wrong + 1] = i - 2
  else
    return added
  end
end
local alive = 0
if ARGV[2] ~= '' then
  alive = renew(KEYS[1], ARGV[2], tonumber(ARGV[3]), group_expiry)
end
table.insert(wrong, 1, alive)
return wrong
