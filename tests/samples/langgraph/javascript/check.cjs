
const assert = require('node:assert/strict');

assert.deepEqual(Object.keys(user), ['user_id', 'email', 'name', 'organization', 'subscription_plan', 'created_at']);
assert.deepEqual([user.email, user.organization, user.subscription_plan], ['user@example.com', 'Example Corp', 'free']);
assert.deepEqual(Object.keys(auth), ['access_token', 'refresh_token', 'expires_in', 'token_type', 'user']);
assert.equal(auth.user.id, user.user_id);
// The key says whose profile it is.
assert.deepEqual([profile.email, profile.email_verified], ['owner@example.com', false]);
