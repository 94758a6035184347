-- Conventions as in the first step.

-- What tells the pepper that a realm's keys, refresh tokens and codes are hashed under from any other: 64 hexadecimal
-- digits, of which the pepper is not to be had. Empty: it was given up, and the next one counts.
CREATE TABLE peppers (
    realm TEXT NOT NULL PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    noted_at BIGINT NOT NULL
);
