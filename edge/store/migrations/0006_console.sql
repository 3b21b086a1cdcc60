-- People who may sign in at the console. Sessions are in memory.
CREATE TABLE account (
    name       TEXT PRIMARY KEY,
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    password   TEXT NOT NULL,   -- argon2id, with its salt and parameters; empty: a trusted proxy vouches for the person
    changed_at REAL NOT NULL    -- sessions that began before have ended
) WITHOUT ROWID;
