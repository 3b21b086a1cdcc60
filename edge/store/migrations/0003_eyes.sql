-- What the gateway measures and notices of itself: samples over time, downtimes, alerts with their notices, and what is
-- known of the equipment that calls. Times are seconds since 1970, UTC.

-- Each minute for two days, then the last of each hour, for 13 months: see edge/ops/history.py.
CREATE TABLE sample (
    name  TEXT NOT NULL,
    at    REAL NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (name, at)
) WITHOUT ROWID;

-- When nobody served the scanners: from the last sign of life to the door's opening.
CREATE TABLE downtime (
    id      INTEGER PRIMARY KEY,
    began   REAL NOT NULL,
    ended   REAL NOT NULL,
    why     TEXT NOT NULL CHECK (why IN ('stopped', 'crash', 'killed', 'out of memory', 'power', 'reboot')),
    detail  TEXT NOT NULL DEFAULT '',
    planned INTEGER NOT NULL
);

-- An alert from its first moment to its end. One that never held for long enough to be told is deleted.
CREATE TABLE alert (
    id              INTEGER PRIMARY KEY,
    kind            TEXT NOT NULL,
    subject         TEXT NOT NULL,
    severity        TEXT NOT NULL,
    since           REAL NOT NULL,           -- when its cause began
    seen_at         REAL NOT NULL,           -- when it was first noticed
    what            TEXT NOT NULL,
    means           TEXT NOT NULL,
    todo            TEXT NOT NULL,
    told            TEXT NOT NULL DEFAULT '',  -- the worst severity that was told; empty: it has not yet held for long enough
    gone_at         REAL,                    -- its cause is gone since then; it ends when that holds
    escalated_at    REAL,
    acknowledged_at REAL,
    acknowledged_by TEXT NOT NULL DEFAULT '',
    note            TEXT NOT NULL DEFAULT '',
    ended_at        REAL
);
CREATE UNIQUE INDEX alert_open ON alert (kind, subject) WHERE ended_at IS NULL;
CREATE INDEX alert_ended ON alert (ended_at) WHERE ended_at IS NOT NULL;

-- What was told of an alert: its body goes to the outbox of every channel.
CREATE TABLE notice (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id INTEGER NOT NULL,
    event    TEXT NOT NULL CHECK (event IN ('opened', 'escalated', 'closed')),
    at       REAL NOT NULL,
    body     TEXT NOT NULL                   -- JSON
);
CREATE INDEX notice_alert ON notice (alert_id);

-- Instances in trouble that a person has looked at: no alert any more, until the state changes.
CREATE TABLE settled (
    instance_id INTEGER PRIMARY KEY,
    at          REAL NOT NULL,
    who         TEXT NOT NULL,
    note        TEXT NOT NULL
);
CREATE TRIGGER settled_anew AFTER UPDATE OF state ON instance WHEN OLD.state <> NEW.state BEGIN
    DELETE FROM settled WHERE instance_id = NEW.id;
END;

-- What equipment says of itself: proposed presentation contexts (JSON: [[abstract syntax, [transfer syntaxes]], ...]),
-- and from its objects.
ALTER TABLE peer ADD COLUMN contexts TEXT NOT NULL DEFAULT '[]';
ALTER TABLE peer ADD COLUMN manufacturer TEXT NOT NULL DEFAULT '';
ALTER TABLE peer ADD COLUMN model TEXT NOT NULL DEFAULT '';
ALTER TABLE peer ADD COLUMN station TEXT NOT NULL DEFAULT '';
ALTER TABLE peer ADD COLUMN described_at REAL;
ALTER TABLE peer ADD COLUMN stored INTEGER NOT NULL DEFAULT 0;  -- objects that it was told success for

-- In which hours equipment has stored something: its usual rhythm. `hour` is hours since 1970, UTC.
CREATE TABLE heard (
    ae_title TEXT NOT NULL,
    hour     INTEGER NOT NULL,
    first_at REAL NOT NULL,
    PRIMARY KEY (ae_title, hour)
) WITHOUT ROWID;

-- The oldest deferred work of each destination, and when it is tried again.
CREATE INDEX delivery_deferred_at ON delivery (destination, not_before, queued_at) WHERE state = 'deferred';
