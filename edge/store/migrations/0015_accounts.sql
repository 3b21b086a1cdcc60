-- Accounts that can be disabled and expire, and how each was used: shown at sign-in, and what locks it against guessing.
ALTER TABLE account ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN expires_at REAL;                        -- NULL: never
ALTER TABLE account ADD COLUMN signed_in_at REAL;
ALTER TABLE account ADD COLUMN signed_in_from TEXT NOT NULL DEFAULT '';  -- the address
ALTER TABLE account ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;    -- since signed_in_at
ALTER TABLE account ADD COLUMN failed_at TEXT NOT NULL DEFAULT '[]';   -- JSON: the latest failures in a row
ALTER TABLE account ADD COLUMN locked_until REAL;
