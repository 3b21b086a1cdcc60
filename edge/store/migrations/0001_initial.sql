-- The catalog. Times are seconds since 1970, UTC. UIDs are text as received. States are named in edge/model.py.

CREATE TABLE study (
    id              INTEGER PRIMARY KEY,
    study_uid       TEXT NOT NULL UNIQUE,
    patient_id      TEXT NOT NULL DEFAULT '',
    patient_name    TEXT NOT NULL DEFAULT '',
    accession       TEXT NOT NULL DEFAULT '',
    study_date      TEXT NOT NULL DEFAULT '',
    description     TEXT NOT NULL DEFAULT '',
    modality        TEXT NOT NULL DEFAULT '',
    first_received  REAL NOT NULL,
    last_received   REAL NOT NULL
);
CREATE INDEX study_last_received ON study (last_received);

-- A kind is what one presentation context carries.
CREATE TABLE kind (
    id                  INTEGER PRIMARY KEY,
    sop_class_uid       TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    UNIQUE (sop_class_uid, transfer_syntax_uid)
);

CREATE TABLE instance (
    id               INTEGER PRIMARY KEY,
    sop_instance_uid TEXT NOT NULL,
    sha256           BLOB NOT NULL,             -- of the data set's bytes as received
    kind_id          INTEGER NOT NULL REFERENCES kind (id),
    study_id         INTEGER REFERENCES study (id),   -- NULL when quarantined
    series_uid       TEXT NOT NULL DEFAULT '',
    state            TEXT NOT NULL CHECK (state IN ('stored', 'conflict', 'quarantined', 'evicted', 'lost')),
    reason           TEXT NOT NULL DEFAULT '',
    path             TEXT NOT NULL,             -- below the spool; named by us
    size             INTEGER NOT NULL,          -- of the file
    dataset_offset   INTEGER NOT NULL,
    calling_ae       TEXT NOT NULL,
    called_ae        TEXT NOT NULL,
    address          TEXT NOT NULL,
    received_at      REAL NOT NULL,
    hold             TEXT NOT NULL DEFAULT '',  -- why retention must keep it for ever; empty: it need not
    open_deliveries  INTEGER NOT NULL DEFAULT 0,      -- not yet confirmed; kept by the triggers below
    confirmed_at     REAL                       -- when the last of its deliveries was confirmed
);
-- One row for each (sop_instance_uid, sha256): the one writer looks before it inserts.
CREATE INDEX instance_uid ON instance (sop_instance_uid);
CREATE INDEX instance_study ON instance (study_id);
CREATE UNIQUE INDEX instance_path ON instance (path);
CREATE INDEX instance_trouble ON instance (state, received_at) WHERE state IN ('conflict', 'quarantined', 'lost');
-- What retention may take, oldest confirmation first.
CREATE INDEX instance_evictable ON instance (confirmed_at)
    WHERE state = 'stored' AND open_deliveries = 0 AND hold = '' AND confirmed_at IS NOT NULL;

CREATE INDEX instance_hold ON instance (hold) WHERE hold <> '';

-- One row per (instance, destination). destination '' holds what no route matched.
CREATE TABLE delivery (
    id             INTEGER PRIMARY KEY,
    instance_id    INTEGER NOT NULL REFERENCES instance (id),
    destination    TEXT NOT NULL,
    kind_id        INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,
    priority       INTEGER NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('pending', 'active', 'deferred', 'held', 'sent', 'confirmed')),
    route          TEXT NOT NULL DEFAULT '',
    reason         TEXT NOT NULL DEFAULT '',
    status         INTEGER,                     -- last C-STORE status
    attempts       INTEGER NOT NULL DEFAULT 0,
    queued_at      REAL NOT NULL,
    not_before     REAL,                        -- deferred: when it is tried again
    lease_until    REAL,                        -- active: when the lease lapses
    sent_at        REAL,
    confirmed_at   REAL,
    transaction_id INTEGER REFERENCES commitment (id),  -- sent: the request for proof that names it
    UNIQUE (instance_id, destination)
);
CREATE INDEX delivery_pending ON delivery (destination, priority, id) WHERE state = 'pending';
CREATE INDEX delivery_deferred ON delivery (not_before) WHERE state = 'deferred';
CREATE INDEX delivery_active ON delivery (lease_until) WHERE state = 'active';
CREATE INDEX delivery_held ON delivery (destination, id) WHERE state = 'held';
CREATE INDEX delivery_unproved ON delivery (destination, sent_at) WHERE state = 'sent' AND transaction_id IS NULL;
CREATE INDEX delivery_transaction ON delivery (transaction_id) WHERE transaction_id IS NOT NULL;

-- A storage commitment request (PS3.4 Annex J) that awaits its N-EVENT-REPORT.
CREATE TABLE commitment (
    id              INTEGER PRIMARY KEY,
    transaction_uid TEXT NOT NULL UNIQUE,
    destination     TEXT NOT NULL,
    asked_at        REAL NOT NULL,
    deadline        REAL NOT NULL,
    ended_at        REAL
);
CREATE INDEX commitment_open ON commitment (destination, deadline) WHERE ended_at IS NULL;

-- Counts and bytes of deliveries, kept by triggers: status is read from here, never by counting rows.
CREATE TABLE tally (
    destination TEXT NOT NULL,
    state       TEXT NOT NULL,
    kind_id     INTEGER NOT NULL,
    priority    INTEGER NOT NULL,
    n           INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    PRIMARY KEY (destination, state, kind_id, priority)
) WITHOUT ROWID;

CREATE TABLE instance_tally (
    state TEXT PRIMARY KEY,
    n     INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER delivery_born AFTER INSERT ON delivery BEGIN
    INSERT INTO tally VALUES (NEW.destination, NEW.state, NEW.kind_id, NEW.priority, 1, NEW.bytes)
        ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
    UPDATE instance SET open_deliveries = open_deliveries + 1, confirmed_at = NULL
        WHERE id = NEW.instance_id AND NEW.state <> 'confirmed';
END;
CREATE TRIGGER delivery_gone AFTER DELETE ON delivery BEGIN
    UPDATE tally SET n = n - 1, bytes = bytes - OLD.bytes
        WHERE destination = OLD.destination AND state = OLD.state AND kind_id = OLD.kind_id AND priority = OLD.priority;
    UPDATE instance SET open_deliveries = open_deliveries - 1
        WHERE id = OLD.instance_id AND OLD.state <> 'confirmed';
END;
CREATE TRIGGER delivery_moved AFTER UPDATE OF state, priority, destination ON delivery
    WHEN OLD.state <> NEW.state OR OLD.priority <> NEW.priority OR OLD.destination <> NEW.destination BEGIN
    UPDATE tally SET n = n - 1, bytes = bytes - OLD.bytes
        WHERE destination = OLD.destination AND state = OLD.state AND kind_id = OLD.kind_id AND priority = OLD.priority;
    INSERT INTO tally VALUES (NEW.destination, NEW.state, NEW.kind_id, NEW.priority, 1, NEW.bytes)
        ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER delivery_confirmed AFTER UPDATE OF state ON delivery
    WHEN OLD.state <> 'confirmed' AND NEW.state = 'confirmed' BEGIN
    UPDATE instance SET open_deliveries = open_deliveries - 1,
                        confirmed_at = CASE WHEN open_deliveries = 1 THEN NEW.confirmed_at END
        WHERE id = NEW.instance_id;
END;
CREATE TRIGGER delivery_reopened AFTER UPDATE OF state ON delivery
    WHEN OLD.state = 'confirmed' AND NEW.state <> 'confirmed' BEGIN
    UPDATE instance SET open_deliveries = open_deliveries + 1, confirmed_at = NULL WHERE id = NEW.instance_id;
END;
CREATE TRIGGER instance_born AFTER INSERT ON instance BEGIN
    INSERT INTO instance_tally VALUES (NEW.state, 1, NEW.size)
        ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER instance_moved AFTER UPDATE OF state ON instance WHEN OLD.state <> NEW.state BEGIN
    UPDATE instance_tally SET n = n - 1, bytes = bytes - OLD.size WHERE state = OLD.state;
    INSERT INTO instance_tally VALUES (NEW.state, 1, NEW.size)
        ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
END;

-- What is known of each destination's health, so that the command can tell while the daemon is down.
CREATE TABLE destination (
    name         TEXT PRIMARY KEY,
    state        TEXT NOT NULL DEFAULT 'up' CHECK (state IN ('up', 'down', 'paused')),
    since        REAL NOT NULL,
    retry_at     REAL,
    last_success REAL,
    last_error   TEXT
);

-- Who has called: configured equipment and strangers (admitted = 0).
CREATE TABLE peer (
    ae_title   TEXT NOT NULL,
    address    TEXT NOT NULL,
    admitted   INTEGER NOT NULL,
    modality   TEXT NOT NULL DEFAULT '',   -- the [modality.NAME] that named it
    first_seen REAL NOT NULL,
    last_seen  REAL NOT NULL,
    calls      INTEGER NOT NULL DEFAULT 1,
    last_stored REAL,
    PRIMARY KEY (ae_title, address)
) WITHOUT ROWID;

-- Append-only and hash-chained: what happened to whom, in order.
CREATE TABLE ledger (
    seq         INTEGER PRIMARY KEY,
    at          REAL NOT NULL,
    event       TEXT NOT NULL,
    who         TEXT NOT NULL,              -- AE title, 'edge', or the person's login
    study_id    INTEGER,
    instances   TEXT NOT NULL DEFAULT '[]', -- JSON array of instance ids
    destination TEXT NOT NULL DEFAULT '',
    detail      TEXT NOT NULL DEFAULT '',
    hash        BLOB NOT NULL               -- SHA-256 over the previous hash and this row
);
CREATE INDEX ledger_study ON ledger (study_id) WHERE study_id IS NOT NULL;
CREATE TRIGGER ledger_is_append_only_update BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_is_append_only_delete BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

-- Small facts about the gateway itself: 'started_at', 'stopped_at', 'alive_at'.
CREATE TABLE gateway (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
