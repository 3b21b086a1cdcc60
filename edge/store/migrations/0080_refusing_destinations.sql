-- Of a destination that is down: it answers, and refuses what it is sent.
ALTER TABLE destination ADD COLUMN refuses INTEGER NOT NULL DEFAULT 0;
