-- Reads the position of a group and its latest messages.
--
-- KEYS: 1 the stored messages
--       2 the position
-- ARGV: 1 the epoch that the reader knows, or ''
--       2 the offset up to which it has messages in that epoch
--       3 the offset after which to read; '' for none
--       4 the number of latest messages to read
--       5 the maximum number of messages
--       6 a new epoch
--       7 milliseconds to keep the position
-- Returns the epoch, the offset of the latest message, the offset after which messages
-- were read, and the entries of the stream. All are read if the epoch is a new one.

local epoch, last = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'last'))
local known = tonumber(ARGV[2])
if not epoch then
  epoch = ARGV[6]
  last = begin_epoch(KEYS[2], KEYS[1], epoch, 0)
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
elseif epoch == ARGV[1] and tonumber(last) < known then
  -- Redis came back with older data: the numbers that follow would stand for two messages.
  epoch = ARGV[6]
  last = begin_epoch(KEYS[2], KEYS[1], epoch, known)
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end
last = tonumber(last)
local most = tonumber(ARGV[5])
local after = math.min(last, tonumber(ARGV[3]) or last, last - tonumber(ARGV[4]))
if ARGV[1] ~= '' and ARGV[1] ~= epoch then
  after = last - most
end
after = math.max(after, last - most, 0)
local found = {}
if after < last then
  found = redis.call('XRANGE', KEYS[1], string.format('%.0f-1', after), '+')
end
return { epoch, string.format('%.0f', last), string.format('%.0f', after), found }
