-- Numbers a message of a group that has a history, stores it, and publishes it.
--
-- KEYS: 1 the stored messages
--       2 the position
--       3 the key of this message, if it is sent once
-- ARGV: 1 the command, 'PUBLISH' or 'SPUBLISH'; '' to publish nothing
--       2 the Redis channel
--       3 what precedes the value when it is published
--       4 how to write the position into the value: 'msgpack', 'json', 'token' or ''
--       5 the value up to the position
--       6 the value after the position
--       7-11 the options of number()
-- Returns the epoch and the offset.

local write = {
  msgpack = cmsgpack.pack,
  json = cjson.encode,
  -- Bytes that decoders of base64 skip.
  token = function(position)
    return (string.gsub(position, '.', function(character)
      return string.char(128 + string.byte(character))
    end))
  end,
  [''] = function() return '' end,
}
local value
local epoch, offset, is_new = number(
  KEYS[1], KEYS[2], KEYS[3], { unpack(ARGV, 7, 11) }, function(position)
    value = ARGV[5] .. write[ARGV[4]](position) .. ARGV[6]
    return value
  end
)
if is_new and ARGV[1] ~= '' then
  redis.call(ARGV[1], ARGV[2], ARGV[3] .. value)
end
return { epoch, offset }
