-- What a rejection note hides when a person lets it take effect later: by [iocm] quality, as it was when it came.
ALTER TABLE rejection_note ADD COLUMN hides INTEGER NOT NULL DEFAULT 1;
