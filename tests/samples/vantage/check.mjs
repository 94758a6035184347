import assert from 'node:assert/strict';

assert.equal(loginResponse.status, 200);
assert.equal(access_token.split('.').length, 3);
assert.equal(response.status, 200, await response.text());
assert.ok(Number(response.headers.get('X-RateLimit-Remaining')) < Number(response.headers.get('X-RateLimit-Limit')));
