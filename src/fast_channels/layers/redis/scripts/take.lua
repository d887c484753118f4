-- Takes messages from a plain channel, which several receivers share. A receiver holds
-- a message until it acknowledges it or gives it back; if it dies first, another
-- receiver recovers the message.
--
-- KEYS: 1 the queue
--       2 the messages that this receiver holds, by score; those taken from 4 have the
--         negated score
--       3 the receivers that hold messages, scored by the ends of their leases
--       4 the messages that several receivers died with: a receiver holds one of them
--         at a time, so that a deadly message is not counted against the others
--       5 the number of receivers that died with each message
-- ARGV: 1 the name of this receiver
--       2 seconds that its lease lasts
--       3 milliseconds to keep the messages that it holds
--       4 seconds that a message can wait in the queue
--       5 '1' to drop messages that have waited longer
--       6 the number of messages to take; -1 to give back all that it holds instead
--       7 the maximum number of bytes to take, unless the first message is larger
--       8 the number of messages that the receiver has, without those below
--       9 the number of messages that it acknowledges
--       10... these messages, and then those that it gives back
-- Returns the time; '1' if Redis and the receiver disagree on the messages it holds, in
-- which case all of them are returned and none is taken; '1' if more wait in 4; the
-- receivers that are dead; and the messages with their scores.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local queue, held, receivers, suspects, deaths = unpack(KEYS)
local expiry, count = tonumber(ARGV[4]), tonumber(ARGV[6])

-- The first write needs no memory: without memory, Redis refuses commands only before a
-- script's first write.
redis.call('ZREM', receivers, ARGV[1])

local function give_back(message, score)
  redis.call('ZREM', held, message)
  local place = queue
  if score < 0 then
    place, score = suspects, -score
  end
  redis.call('ZADD', place, score, message)
  redis.call('PEXPIRE', place, math.ceil(expiry * 1000))
end

local done = 9 + ARGV[9]
for i = 10, done do
  redis.call('ZREM', held, ARGV[i])
end
if done > 9 and redis.call('EXISTS', deaths) == 1 then
  for i = 10, done do
    redis.call('HDEL', deaths, ARGV[i])
  end
end
for i = done + 1, #ARGV do
  local score = redis.call('ZSCORE', held, ARGV[i])
  if score then
    give_back(ARGV[i], tonumber(score))
  end
end

local taken, differs = {}, '0'
if count == -1 or redis.call('ZCARD', held) ~= tonumber(ARGV[8]) then
  local all = redis.call('ZRANGE', held, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    if count == -1 then
      give_back(all[i], tonumber(all[i + 1]))
    else
      differs = '1'
      taken[#taken + 1] = all[i]
      taken[#taken + 1] = all[i + 1]
    end
  end
elseif count > 0 then
  if ARGV[5] == '1' then
    redis.call('ZREMRANGEBYSCORE', queue, '-inf', now - expiry)
  end
  if redis.call('ZCOUNT', held, '-inf', '(0') == 0 then
    redis.call('ZREMRANGEBYSCORE', suspects, '-inf', now - expiry)
    local first = redis.call('ZPOPMIN', suspects)
    if first[1] then
      taken = { first[1], '-' .. first[2] }
      redis.call('ZADD', held, '-' .. first[2], first[1])
      count = count - 1
    end
  end
  if count > 0 then
    local bytes, removed = 0, 0
    local messages = redis.call('ZRANGE', queue, 0, count - 1, 'WITHSCORES')
    for i = 1, #messages, 2 do
      bytes = bytes + #messages[i]
      if i > 1 and bytes > tonumber(ARGV[7]) then
        break
      end
      taken[#taken + 1] = messages[i]
      taken[#taken + 1] = messages[i + 1]
      redis.call('ZADD', held, messages[i + 1], messages[i])
      removed = removed + 1
    end
    if removed > 0 then
      redis.call('ZREMRANGEBYRANK', queue, 0, removed - 1)
    end
  end
end

local more = '0'
if redis.call('ZCARD', held) > 0 then
  redis.call('ZADD', receivers, now + tonumber(ARGV[2]), ARGV[1])
  redis.call('PEXPIRE', receivers, ARGV[3])
  redis.call('PEXPIRE', held, ARGV[3])
end
if redis.call('ZCOUNT', held, '-inf', '(0') == 0 and redis.call('EXISTS', suspects) == 1 then
  more = '1'
end
local dead = redis.call('ZRANGEBYSCORE', receivers, '-inf', now, 'LIMIT', 0, 10)
return { string.format('%.6f', now), differs, more, dead, taken }
