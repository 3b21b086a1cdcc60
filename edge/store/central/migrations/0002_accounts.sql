-- Who may sign in to the pages, and who did.

CREATE TABLE account (
    name            TEXT PRIMARY KEY,
    role            TEXT NOT NULL,
    password        TEXT NOT NULL,              -- argon2id, or empty
    changed_at      DOUBLE PRECISION NOT NULL
);

CREATE TABLE journal (
    id              $ID,
    at              DOUBLE PRECISION NOT NULL,
    who             TEXT NOT NULL,
    text            TEXT NOT NULL
);
