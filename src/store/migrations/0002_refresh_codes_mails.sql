-- Conventions as in the first step. A process of that step which is still running goes on working: what is new may
-- be missing from what it inserts.

-- Counts changes of the password, not renewals of its hash: a sign-in that proved the old password starts no
-- session any more.
ALTER TABLE users ADD COLUMN password_version BIGINT NOT NULL DEFAULT 0;

-- The refresh token of the session's family that counts now, 64 hexadecimal digits, and until when; the one
-- before it, and when it was replaced.
ALTER TABLE sessions ADD COLUMN refresh_hash TEXT;
ALTER TABLE sessions ADD COLUMN refresh_ends_at BIGINT;
ALTER TABLE sessions ADD COLUMN refresh_parent TEXT;
ALTER TABLE sessions ADD COLUMN refresh_rotated_at BIGINT;

-- What mails carry. One of a kind for a user: a new one takes the place of the old.
CREATE TABLE codes (
    realm TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- `verify` or `reset`.
    kind TEXT NOT NULL,
    -- 64 hexadecimal digits.
    hash TEXT NOT NULL,
    ends_at BIGINT NOT NULL,
    PRIMARY KEY (realm, user_id, kind),
    FOREIGN KEY (realm, user_id) REFERENCES users (realm, id)
);

CREATE UNIQUE INDEX codes_by_hash ON codes (realm, hash);

-- For the purge, as with all that start with a time: it looks at every realm.
CREATE INDEX codes_by_end ON codes (ends_at);

CREATE TABLE mails (
    realm TEXT NOT NULL,
    id TEXT NOT NULL,
    -- Whose account it is about.
    user_id TEXT NOT NULL,
    queued_at BIGINT NOT NULL,
    -- The ciphertext; NULL once the mail was sent or given up. What is left counts it.
    sealed BLOB,
    -- When it may be taken: put off by whoever takes it, for as long as that may last.
    next_at BIGINT NOT NULL,
    -- How often it was taken.
    attempts BIGINT NOT NULL,
    -- Why the last attempt failed.
    error TEXT,
    done_at BIGINT,
    PRIMARY KEY (realm, id),
    FOREIGN KEY (realm, user_id) REFERENCES users (realm, id)
);

-- For counting a user's mails of the last hour.
CREATE INDEX mails_of_user ON mails (realm, user_id, queued_at);

-- Workers take mails of every realm.
CREATE INDEX mails_due ON mails (next_at) WHERE sealed IS NOT NULL;
CREATE INDEX mails_by_end ON mails (done_at) WHERE done_at IS NOT NULL;
