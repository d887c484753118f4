-- Sends one message to all members of a group that has a history: numbers it, stores it,
-- and puts it into the queues, like group_send.lua, which is for other groups.
--
-- A queue whose list of channels has a stand-in gets the position too, as one more name:
-- <queue>g.<epoch>.<offset>. Processes that know nothing of positions ignore it like the
-- stand-in of a group that they have left; those of Django have no stand-ins.
--
-- KEYS: 1 the group
--       2 the leases of processes
--       3 the stored messages
--       4 the position
--       5 the key of this message, if it is sent once
-- ARGV: 1 seconds that a member stays in the group
--       2 the prefix of the keys of queues
--       3 the capacity of the queue of a process
--       4 the capacity of a plain channel; '' if each has its own
--       5 seconds that a message can wait in a queue
--       6 the encoding of the list: 'msgpack' or 'json'
--       7 the value up to the list
--       8 the value after the list
--       9-13 the options of number()
-- Returns the epoch and the offset; the names of the queues that were full; and the
-- plain channels to which nothing was sent.

-- Returns whether a list of channels has a stand-in.
local function has_stand_in(list, queue)
  for _, channel in ipairs(list) do
    if string.sub(channel, #queue + 1, #queue + 2) == 'g.' then
      return true
    end
  end
end

local now = seconds()
local names, channels, drop_others =
  living_members(KEYS[1], KEYS[2], tonumber(ARGV[1]), now)
local process_capacity, capacity = tonumber(ARGV[3]), tonumber(ARGV[4])
local expiry = tonumber(ARGV[5])
local write = ARGV[6] == 'json' and cjson.encode or cmsgpack.pack
local empty = ARGV[6] == 'json' and '[]' or '\144'
local stored = ARGV[7] .. empty .. ARGV[8]
local epoch, offset, is_new = number(
  KEYS[3], KEYS[4], KEYS[5], { unpack(ARGV, 9, 13) }, function() return stored end
)
local full, unsent = {}, {}
for _, name in ipairs(is_new and names or {}) do
  local is_process = string.sub(name, -1) == '!'
  local limit = is_process and process_capacity or capacity
  local list = channels[name]
  if is_process and has_stand_in(list, name) then
    list[#list + 1] = name .. 'g.' .. epoch .. '.' .. offset
  end
  if limit then
    local value = ARGV[7] .. write(list) .. ARGV[8]
    if enqueue(ARGV[2] .. name, value, limit, expiry, now) == 0 then
      full[#full + 1] = name
    end
  else
    unsent[#unsent + 1] = name
  end
end
drop_others()
return { epoch, offset, full, unsent }
