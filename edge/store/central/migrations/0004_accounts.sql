-- Accounts that can be disabled and expire, and how each was used: shown at sign-in, and what locks it against guessing.
ALTER TABLE account ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN expires_at DOUBLE PRECISION;
ALTER TABLE account ADD COLUMN signed_in_at DOUBLE PRECISION;
ALTER TABLE account ADD COLUMN signed_in_from TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN failed_at TEXT NOT NULL DEFAULT '[]';
ALTER TABLE account ADD COLUMN locked_until DOUBLE PRECISION;
