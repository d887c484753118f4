-- Sends one message to all members of a group. The members of one process share a
-- queue, whose name ends with a '!', and get one value, which lists them.
--
-- KEYS: 1 the group
-- ARGV: 1 for how many seconds a member stays
--       2 what the keys of queues start with
--       3 how many messages may wait in a queue
--       4 for how many seconds they may
--       5 how the list is written: 'msgpack' or 'json'
--       6 the value up to the list
--       7 the value after the list
-- Returns the names of the queues that were full.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', seconds() - tonumber(ARGV[1]))

local names, channels = {}, {}
for _, channel in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local mark = string.find(channel, '!', 1, true)
  local name = mark and string.sub(channel, 1, mark) or channel
  if channels[name] then
    table.insert(channels[name], channel)
  else
    names[#names + 1] = name
    channels[name] = { channel }
  end
end

local capacity, expiry = tonumber(ARGV[3]), tonumber(ARGV[4])
local write = ARGV[5] == 'json' and cjson.encode or cmsgpack.pack
local full = {}
for _, name in ipairs(names) do
  local value = ARGV[6] .. write(channels[name]) .. ARGV[7]
  if enqueue(ARGV[2] .. name, value, capacity, expiry) == 0 then
    full[#full + 1] = name
  end
end
return full
