-- What the gateway has to tell others (notices, heartbeats, audit messages), until they have it: one row per message and
-- channel, in the order in which they arose. A delivered message is deleted.

CREATE TABLE message (
    id         INTEGER PRIMARY KEY,
    channel    TEXT NOT NULL,                -- "email.mimso", "heartbeat", "audit": who takes it away
    kind       TEXT NOT NULL DEFAULT '',
    at         REAL NOT NULL,                -- when it arose: a late message keeps its time
    body       TEXT NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX message_channel ON message (channel, id);
