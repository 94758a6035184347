-- One admission: every window of every charge is asked, and all are spent from or none is. Windows that are only tried
-- are a second group, decided likewise once the first is admitted; no subject is in both.
-- The arithmetic is that of src/rules/sliding_window.rs (the proof stands there), on numbers that a double holds.
--
-- KEYS      one hash per charge's subject: field t = the latest time decided at, s = the clock's shift,
--           and for each window length a field of that name: {bucket, units, bucket, units, ...}, packed, oldest first.
-- ARGV[1]   the time in milliseconds; '' for this server's clock (anything else is for tests).
-- ARGV[2]   how many of the windows are the first group.
-- ARGV[3..] five numbers for each window: key (from 1), length in ms, limit, demand, 1 if it is to be spent through.
-- Answers   {wait of the first group in ms, of the second, used, returns_in, used, returns_in, ...}; no wait: admitted.

local PARTS = 60
-- Keys outlive what counts in them by this much: PEXPIRE and TIME may read the clock a little apart.
local SLACK = 1000

local clock
if ARGV[1] == '' then
  local time = redis.call('TIME')
  clock = time[1] * 1000 + math.floor(time[2] / 1000)
else
  clock = tonumber(ARGV[1])
end

-- This clock is the machine's calendar, which may be set back. Time as the windows see it must not: where it would
-- fall behind the latest that was seen, it goes on from there, shifted by the step. So a step back frees nothing, and
-- delays what comes back by no more than the time since the subject's last admission.
local subjects = {}
for k = 1, #KEYS do
  local seen = redis.call('HMGET', KEYS[k], 't', 's')
  local latest, shift = tonumber(seen[1] or 0), tonumber(seen[2] or 0)
  local now = clock + shift
  local stepped = now < latest
  if stepped then
    shift = latest - clock
    now = latest
  end
  subjects[k] = { now = now, shift = shift, stepped = stepped }
end

-- What one window holds, and what is asked of it.
local function read(at)
  local key = tonumber(ARGV[at])
  local length, limit, demand = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local now = subjects[key].now
  local width = math.max(math.floor(length / PARTS), 1)
  local packed = redis.call('HGET', KEYS[key], ARGV[at + 1])
  local slots = packed and cmsgpack.unpack(packed) or {}

  local first, used = 1, 0
  while first < #slots and (slots[first] + 1) * width + length <= now do
    first = first + 2
  end
  for slot = first, #slots, 2 do
    used = used + slots[slot + 1]
  end
  local hold = length + width - now % width
  local returns_in = hold
  if first < #slots then
    returns_in = (slots[first] + 1) * width + length - now
  end
  return {
    key = key, field = ARGV[at + 1], length = length, limit = limit, demand = demand, now = now, width = width,
    slots = slots, first = first, used = used, hold = hold, returns_in = returns_in,
    spends = ARGV[at + 4] == '1' and demand > 0,
  }
end

-- How long until all of them have room, in ms; 0: they have.
local function until_all_fit(asks)
  local wait = 0
  for _, ask in ipairs(asks) do
    if ask.demand > 0 and ask.used + ask.demand > ask.limit then
      local lacks, this = ask.used + ask.demand - ask.limit, ask.length
      if ask.demand <= ask.limit then
        for slot = ask.first, #ask.slots, 2 do
          if lacks <= 0 then break end
          lacks = lacks - ask.slots[slot + 1]
          this = (ask.slots[slot] + 1) * ask.width + ask.length - ask.now
        end
      end
      wait = math.max(wait, this, 1)
    end
  end
  return wait
end

local function spend(ask)
  local kept, bucket = {}, math.floor(ask.now / ask.width)
  for slot = ask.first, #ask.slots do
    kept[#kept + 1] = ask.slots[slot]
  end
  if #kept > 0 and kept[#kept - 1] == bucket then
    kept[#kept] = kept[#kept] + ask.demand
  else
    kept[#kept + 1] = bucket
    kept[#kept + 1] = ask.demand
  end
  local key, subject = KEYS[ask.key], subjects[ask.key]
  redis.call('HSET', key, ask.field, cmsgpack.pack(kept), 't', subject.now, 's', subject.shift)
  if redis.call('PTTL', key) < ask.hold + SLACK then
    redis.call('PEXPIRE', key, ask.hold + SLACK)
  end
end

-- Spends from all of them or from none; how long until they fit, 0: they did.
local function decide(asks)
  local wait = until_all_fit(asks)
  for _, ask in ipairs(asks) do
    local subject = subjects[ask.key]
    if wait == 0 and ask.spends then
      spend(ask)
    elseif wait > 0 and subject.stepped then
      -- A refusal consumes nothing; only a step of the clock is remembered, or time would stand still until it is made up.
      redis.call('HSET', KEYS[ask.key], 't', subject.now, 's', subject.shift)
    end
  end
  return wait
end

local held, tried, answer = {}, {}, { 0, 0 }
for at = 3, #ARGV, 5 do
  local ask = read(at)
  local group = #held < tonumber(ARGV[2]) and held or tried
  group[#group + 1] = ask
  answer[#answer + 1] = ask.used
  answer[#answer + 1] = ask.returns_in
end
answer[1] = decide(held)
if answer[1] == 0 then
  answer[2] = decide(tried)
end
return answer
