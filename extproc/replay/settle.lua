-- Notes how the call under an idempotency key ended, if the key is still this request's.
-- KEYS  1 idempotency key
-- ARGV  1 request id  2 fingerprint  3 released 1 or 0  4 upstream status  5 receipt id or ''  6 TTL ms
local held = redis.call('GET', KEYS[1])
if held then
  local state, _, holder = string.match(held, '^(%a) (%S+) (%S+) ')
  if holder ~= ARGV[1] or state == 'd' then return 0 end
end
if ARGV[3] == '1' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], 'd ' .. ARGV[2] .. ' ' .. ARGV[1] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5], 'PX', ARGV[6])
return 1
