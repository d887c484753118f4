-- Takes messages from a plain channel, which several receivers share. A receiver holds
-- a message until it acknowledges it or gives it back; if it dies first, another
-- receiver recovers the message.
--
-- KEYS: 1 the queue
--       2 what this receiver holds: messages by their scores, those that it has from 4
--         by the negated score
--       3 the receivers that hold messages, by the times at which their leases end; under
--         the empty name, when any receiver was heard from last
--       4 messages that have had several receivers that died: a receiver holds one of
--         them at a time, so that one that kills its receivers has no company
--       5 how many receivers that died each message has had
-- ARGV: 1 the name of this receiver
--       2 seconds that its lease lasts
--       3 milliseconds to keep the messages that it holds
--       4 seconds that a message can wait in the queue
--       5 '1' to drop messages that have waited longer
--       6 how many messages to take; -1 to give back all that it holds instead
--       7 the most bytes to take, unless the first message has more
--       8 how many messages it has, when those below are gone
--       9 how many messages it acknowledges
--       10 how many messages it returns that no reader has received
--       11... these two kinds, and then those that were received and come back
-- Returns the time; '1' if what it holds are other messages than it has: then all of
-- them, and none is taken; whether more wait in 4; the receivers that are dead; and the
-- messages with their scores.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local queue, held, receivers, suspects, deaths = unpack(KEYS)
local expiry, count = tonumber(ARGV[4]), tonumber(ARGV[6])

-- What a script has done stays done when it fails: a key that holds something else fails
-- all of it before the first write. And each message is in its new place before it leaves
-- the old one: while Redis Cluster moves the keys, it refuses commands on those that do
-- not exist, even if the script has just deleted them.
for _, key in ipairs({ queue, held, suspects }) do
  redis.call('ZCARD', key)
end
local has_deaths = redis.call('HLEN', deaths) > 0
local heard = redis.call('ZSCORE', receivers, '')
-- The first write: Redis refuses those that need memory while it has none, and lets all
-- others pass once a script has written.
redis.call('ZREM', receivers, ARGV[1], '')

local lease = tonumber(ARGV[2])
if heard and math.abs(now - heard) > 0.8 * lease then
  -- Redis was away, or its clock was changed: those that had renewed their leases lately
  -- have not died, and get time to do it again. That time is too short to be given twice,
  -- so none outlives its death for ever where receivers are seldom heard from.
  local lately = string.format('%.6f', heard + 0.6 * lease)
  local alive = redis.call('ZRANGEBYSCORE', receivers, lately, '+inf')
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', receivers, '-inf', '(' .. lately)) do
    redis.call('ZADD', receivers, math.min(now, heard), each)
  end
  for _, each in ipairs(alive) do
    redis.call('ZADD', receivers, now + 0.5 * lease, each)
  end
end

-- Gives a message back, in its place. One whose work has taken long gets time to be taken
-- again: it would be too old to wait.
local function give_back(message, score, oldest)
  local place = queue
  if score < 0 then
    place, score = suspects, -score
  end
  redis.call('ZADD', place, math.max(score, oldest), message)
  redis.call('PEXPIRE', place, math.ceil(expiry * 1000))
  redis.call('ZREM', held, message)
end

local done = 10 + ARGV[9]
local unread = done + ARGV[10]
for i = 11, done do
  redis.call('ZREM', held, ARGV[i])
  if has_deaths then
    redis.call('HDEL', deaths, ARGV[i])
  end
end
for i = done + 1, #ARGV do
  local score = redis.call('ZSCORE', held, ARGV[i])
  if score then
    give_back(ARGV[i], tonumber(score), i <= unread and 0 or now - expiry / 2)
  end
end

local taken, differs = {}, '0'
if count == -1 or redis.call('ZCARD', held) ~= tonumber(ARGV[8]) then
  local all = redis.call('ZRANGE', held, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    if count == -1 then
      give_back(all[i], tonumber(all[i + 1]), now - expiry / 2)
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
    local first = redis.call('ZRANGE', suspects, 0, 0, 'WITHSCORES')
    if first[1] then
      taken = { first[1], '-' .. first[2] }
      redis.call('ZADD', held, '-' .. first[2], first[1])
      redis.call('ZREM', suspects, first[1])
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

local dead = redis.call('ZRANGEBYSCORE', receivers, '-inf', now, 'LIMIT', 0, 10)
if redis.call('ZCARD', held) > 0 then
  redis.call('ZADD', receivers, now + lease, ARGV[1])
  redis.call('PEXPIRE', held, ARGV[3])
end
if redis.call('EXISTS', receivers) == 1 then
  redis.call('ZADD', receivers, now, '')
  redis.call('PEXPIRE', receivers, ARGV[3])
end
local more = '0'
if redis.call('EXISTS', suspects) == 1 then
  -- They wait for one another, so they may wait for long.
  redis.call('PEXPIRE', suspects, ARGV[3])
  more = redis.call('ZCOUNT', held, '-inf', '(0') == 0 and '1' or '0'
end
return { string.format('%.6f', now), differs, more, dead, taken }
