-- One claim, whole or not at all. The rules and their order are those of package replay.
-- KEYS  1 binding  2 nonce  3 idempotency key  4 since when this place remembers
-- ARGV  1 request id  2 binder or ''  3 its TTL ms  4 nonce TTL ms or 0  5 token's iat s or 0
--       6 fingerprint or ''  7 its TTL ms
-- Answer: status, holder, receipt id, upstream status
local rid, binder, fingerprint = ARGV[1], ARGV[2], ARGV[6]

if binder ~= '' then
  local bound = redis.call('GET', KEYS[1])
  if bound and bound ~= binder then return {2, '', '', 0} end
end

if ARGV[4] ~= '0' then
  local user = redis.call('GET', KEYS[2])
  if user and user ~= rid then return {3, user, '', 0} end
  if not user and ARGV[5] ~= '0' then
    local since = redis.call('GET', KEYS[4])
    if not since then -- emptied: from now on, and nothing before
      since = redis.call('TIME')[1]
      redis.call('SET', KEYS[4], since)
    end
    if tonumber(ARGV[5]) < tonumber(since) then return {3, '', '', 0} end
  end
end

if fingerprint ~= '' then
  local held = redis.call('GET', KEYS[3])
  if held then
    local state, print, holder, status, receipt = string.match(held, '^(%a) (%S+) (%S+) (%d+) (%S*)$')
    if print ~= fingerprint then return {6, holder or '', '', 0} end
    if state == 'd' then return {5, holder, receipt, tonumber(status)} end
    if holder ~= rid then return {4, holder, '', 0} end
  end
end

if binder ~= '' then
  local ttl = redis.call('PTTL', KEYS[1]) -- -2 where there is none
  if tonumber(ARGV[3]) > ttl then redis.call('SET', KEYS[1], binder, 'PX', ARGV[3]) end
end
if ARGV[4] ~= '0' then redis.call('SET', KEYS[2], rid, 'PX', ARGV[4]) end
if fingerprint ~= '' then
  redis.call('SET', KEYS[3], 'p ' .. fingerprint .. ' ' .. rid .. ' 0 ', 'PX', ARGV[7])
end
return {1, '', '', 0}
