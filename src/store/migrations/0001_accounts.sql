-- One text for both databases. Ids are 32 hexadecimal digits, times are milliseconds since the Unix epoch,
-- flags are 0 or 1. On PostgreSQL every text column is made COLLATE "C" by the runner, so that ranges and
-- pages order bytes there as they do in SQLite. A key starts with its realm: no row can be reached from
-- another realm, nor point into one.

CREATE TABLE orgs (
    realm TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    plan TEXT NOT NULL,
    -- Windows as people write them, comma-separated; NULL: the plan's count; empty: no limit.
    limits TEXT,
    disabled BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (realm, id)
);

CREATE TABLE users (
    realm TEXT NOT NULL,
    id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    email TEXT NOT NULL,
    username TEXT,
    name TEXT,
    role TEXT NOT NULL,
    email_verified BIGINT NOT NULL,
    password_hash TEXT NOT NULL,
    disabled BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (realm, id),
    FOREIGN KEY (realm, org_id) REFERENCES orgs (realm, id)
);

CREATE INDEX users_of_org ON users (realm, org_id, id);

-- What a person may type to sign in: the normalised address and, where there is one, the sign-in name. One
-- space for both, so that nobody can take as a sign-in name what is another's address, and the other way round.
CREATE TABLE sign_in_names (
    realm TEXT NOT NULL,
    name TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (realm, name),
    FOREIGN KEY (realm, user_id) REFERENCES users (realm, id)
);

CREATE TABLE sessions (
    realm TEXT NOT NULL,
    id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_active_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    revoked_at BIGINT,
    address TEXT,
    -- JSON.
    device TEXT,
    PRIMARY KEY (realm, id),
    FOREIGN KEY (realm, user_id) REFERENCES users (realm, id)
);

CREATE INDEX sessions_of_user ON sessions (realm, user_id, id);

-- For the purge, which looks at every realm.
CREATE INDEX sessions_by_end ON sessions (ends_at);
CREATE INDEX sessions_by_revocation ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE api_keys (
    realm TEXT NOT NULL,
    id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- The keyed hash, 64 hexadecimal digits.
    hash TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    -- Space-separated.
    permissions TEXT NOT NULL,
    -- A JSON object of strings.
    attributes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT,
    replaced_by TEXT,
    PRIMARY KEY (realm, id),
    FOREIGN KEY (realm, org_id) REFERENCES orgs (realm, id),
    FOREIGN KEY (realm, user_id) REFERENCES users (realm, id)
);

CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (realm, hash);
CREATE INDEX api_keys_of_org ON api_keys (realm, org_id, id);

-- For counting the live ones without meeting the dead.
CREATE INDEX api_keys_by_end ON api_keys (realm, org_id, revoked_at, expires_at);

-- What other processes must forget. Numbers come from the one row of `feed`, raised in the same transaction as
-- the change: its lock is held until the commit, so numbers follow the order of commits and none is skipped.
CREATE TABLE feed (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    head BIGINT NOT NULL
);

INSERT INTO feed (id, head) VALUES (1, 0);

CREATE TABLE changes (
    seq BIGINT NOT NULL PRIMARY KEY,
    realm TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    at BIGINT NOT NULL
);
