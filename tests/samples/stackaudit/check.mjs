import assert from 'node:assert/strict';

assert.equal(response.status, 200);
assert.deepEqual(audits, []);
