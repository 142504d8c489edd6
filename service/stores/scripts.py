"""The Lua that runs inside Redis: each script is one step that must not be torn apart.

Scripts are sent whole (EVAL), not by digest: a server that restarted or failed over has forgotten
digests, and 500 bytes cost less than the extra round trip. All keys of one script share a hash tag,
so they live in one slot of a Cluster. Writes that a full server refuses (OOM) are tried with
``pcall`` where the rest of the step matters more than the write.
"""

from typing import Final

CLAIM: Final = """\
local v = redis.call('GET', KEYS[1])
if v then return {1, v} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {2} end
return {3, redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2])}
"""
"""KEYS value, lock; ARGV token, lease ms → {1, value} | {2} | {3, owner, ms left}."""

PEEK: Final = """\
local v = redis.call('GET', KEYS[1])
if v then return {1, v} end
local owner = redis.call('GET', KEYS[2])
if owner == ARGV[1] then return {3, owner, redis.call('PTTL', KEYS[2])} end
local o = redis.call('GET', KEYS[3])
if o then return {1, o} end
return {0}
"""
"""KEYS value, lock, outcome; ARGV owner → {1, value} | {3, owner, ms left} | {0}."""

FINISH: Final = """\
if tonumber(ARGV[3]) > 0 then
  redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else
  redis.pcall('SET', KEYS[3], ARGV[2], 'PX', ARGV[5])
end
redis.pcall('PUBLISH', ARGV[4], ARGV[2])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
"""
"""KEYS value, lock, outcome; ARGV token, payload, ttl ms (0: do not keep), channel, outcome ms."""

RELEASE: Final = """\
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.pcall('PUBLISH', ARGV[2], '')
return 1
"""
"""KEYS lock; ARGV token, channel."""

RENEW: Final = """\
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if not owner and redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 2 end
return 0
"""
"""KEYS lock; ARGV token, lease ms → 1 renewed | 2 taken again | 0 somebody else has it."""

_OLD_ACCOUNTS: Final = """\
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('DEL', old, old .. ':held')
  redis.call('ZREM', KEYS[1], old)
end
"""
# Accounts have no expiry of their own, because a full Redis evicts what has one (volatile-lru), and
# a budget that was forgotten is spent twice. A register says when each may go.

RESERVE: Final = (
    _OLD_ACCOUNTS
    + """\
for i = 2, #KEYS, 2 do
  for _, m in ipairs(redis.call('ZRANGEBYSCORE', KEYS[i+1], '-inf', now, 'LIMIT', 0, 100)) do
    redis.call('ZREM', KEYS[i+1], m)
    redis.call('HINCRBY', KEYS[i], 'reserved', -tonumber(string.match(m, '^%d+')))
  end
  local h = redis.call('HMGET', KEYS[i], 'spent', 'reserved')
  local used = tonumber(h[1] or '0') + tonumber(h[2] or '0')
  if used + ARGV[1] > tonumber(ARGV[4 + i / 2]) then return {i / 2, used} end
end
for i = 2, #KEYS, 2 do
  redis.call('ZADD', KEYS[1], 'NX', now + ARGV[4], KEYS[i])
  redis.call('HINCRBY', KEYS[i], 'reserved', ARGV[1])
  redis.call('ZADD', KEYS[i+1], now + ARGV[3], ARGV[2])
end
return {0, 0}
"""
)
"""KEYS register, account, reservations, …; ARGV amount, amount:id, hold ms, keep ms, limits…
→ {0, 0} | {which, taken}."""

SETTLE: Final = (
    _OLD_ACCOUNTS
    + """\
for i = 2, #KEYS, 2 do
  if redis.call('ZREM', KEYS[i+1], ARGV[1]) == 1 then
    redis.call('HINCRBY', KEYS[i], 'reserved', -tonumber(string.match(ARGV[1], '^%d+')))
  end
  redis.call('ZADD', KEYS[1], 'NX', now + ARGV[3], KEYS[i])
  redis.call('HINCRBY', KEYS[i], 'spent', ARGV[2])
end
return 0
"""
)
"""KEYS register, account, reservations, …; ARGV amount:id, spent, keep ms."""
