-- What came over HL7, what was set aside, and what goes on to others.
CREATE TABLE hl7_message (
    id          INTEGER PRIMARY KEY,
    record      TEXT NOT NULL,                  -- of the journal
    position    INTEGER NOT NULL,               -- in its batch, from 0 on
    feed        TEXT NOT NULL,
    address     TEXT NOT NULL,
    authority   TEXT NOT NULL,                  -- of the feed, as it was
    control_id  TEXT NOT NULL,                  -- MSH-10
    event       TEXT NOT NULL,                  -- MSH-9, as ADT^A08
    digest      BLOB NOT NULL,                  -- SHA-256 of its bytes
    size        INTEGER NOT NULL,
    received_at DOUBLE PRECISION NOT NULL,
    applied_at  DOUBLE PRECISION NOT NULL,
    state       TEXT NOT NULL CHECK (state IN
        ('applied', 'unchanged', 'relay-only', 'ignored', 'parked', 'refused', 'discarded')),
    reason      TEXT NOT NULL DEFAULT '',       -- parked, refused: a code
    field       TEXT NOT NULL DEFAULT '',       -- refused: which
    notes       TEXT NOT NULL DEFAULT '',       -- codes, by commas
    behind_id   BIGINT REFERENCES hl7_message (id),  -- parked: the message that it waits for
    repeats     INTEGER NOT NULL DEFAULT 0,     -- how often the same came again
    repeated_at DOUBLE PRECISION,
    decided_by  TEXT NOT NULL DEFAULT '',       -- who replayed or discarded it, and why
    decision    TEXT NOT NULL DEFAULT '',
    body        BLOB,                           -- NULL: nobody needs it any more
    UNIQUE (feed, control_id, digest)
);
CREATE INDEX hl7_message_parked ON hl7_message (id) WHERE state = 'parked';
CREATE INDEX hl7_message_received ON hl7_message (received_at);
CREATE INDEX hl7_message_noted ON hl7_message (id) WHERE notes <> '';
CREATE INDEX hl7_message_kept ON hl7_message (received_at) WHERE body IS NOT NULL;

-- Counts by feed and state, so that a status needs no scan.
CREATE TABLE hl7_tally (
    feed  TEXT NOT NULL,
    state TEXT NOT NULL,                        -- as above; and 'duplicate', 'received'
    n     BIGINT NOT NULL,
    last_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (feed, state)
);

-- The hours in which messages of a feed came, for its usual hours.
CREATE TABLE hl7_hour (
    feed    TEXT NOT NULL,
    hour_at BIGINT NOT NULL,                    -- when it began, seconds since 1970
    PRIMARY KEY (feed, hour_at)
) WITHOUT ROWID;

-- Which identifiers (number@authority row) a message names that is parked.
CREATE TABLE hl7_parked_identifier (
    message_id BIGINT NOT NULL REFERENCES hl7_message (id),
    identifier TEXT NOT NULL,
    PRIMARY KEY (identifier, message_id)
) WITHOUT ROWID;
CREATE INDEX hl7_parked_identifier_message ON hl7_parked_identifier (message_id);

-- What goes on, in order, one queue a relay.
CREATE TABLE hl7_relay (
    id         INTEGER PRIMARY KEY,
    relay      TEXT NOT NULL,
    message_id BIGINT NOT NULL REFERENCES hl7_message (id),
    state      TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'held', 'sent', 'cancelled')),
    identifiers TEXT NOT NULL DEFAULT '',       -- that it names, by blanks
    tries      INTEGER NOT NULL DEFAULT 0,
    first_at   DOUBLE PRECISION,                -- when it was tried first
    not_before DOUBLE PRECISION NOT NULL DEFAULT 0,
    code       TEXT NOT NULL DEFAULT '',        -- the last acknowledgement code
    peer_text  TEXT NOT NULL DEFAULT '',        -- the receiver's words: may hold PHI
    ended_at   DOUBLE PRECISION,
    decided_by TEXT NOT NULL DEFAULT '',
    decision   TEXT NOT NULL DEFAULT '',
    UNIQUE (relay, message_id)
);
CREATE INDEX hl7_relay_open ON hl7_relay (relay, id) WHERE state IN ('waiting', 'held');
CREATE INDEX hl7_relay_message ON hl7_relay (message_id);

-- Every change of a patient, with what was before.
CREATE TABLE patient_event (
    id          INTEGER PRIMARY KEY,
    patient_key BIGINT NOT NULL REFERENCES known_patient (id),
    message_id  BIGINT,
    at          DOUBLE PRECISION NOT NULL,
    kind        TEXT NOT NULL,                  -- created, updated, merged, reversed, assigned
    before      TEXT NOT NULL DEFAULT '',       -- JSON
    after       TEXT NOT NULL DEFAULT ''
);
CREATE INDEX patient_event_patient ON patient_event (patient_key, id);

-- What is a reason for an alert until a person has acknowledged it.
CREATE TABLE identity_finding (
    kind       TEXT NOT NULL,                   -- of the alert
    subject    TEXT NOT NULL,                   -- row numbers or a feed; never a patient's data
    feed       TEXT NOT NULL,
    first_at   DOUBLE PRECISION NOT NULL,
    last_at    DOUBLE PRECISION NOT NULL,
    message_id BIGINT,
    settled_at DOUBLE PRECISION,
    PRIMARY KEY (kind, subject)
);
CREATE INDEX identity_finding_open ON identity_finding (kind) WHERE settled_at IS NULL;

CREATE INDEX imaging_order_filler ON imaging_order (filler_number) WHERE filler_number <> '';
CREATE INDEX imaging_order_step ON imaging_order (step_id) WHERE step_id <> '';
ALTER TABLE known_patient ADD COLUMN name_message BIGINT;  -- that brought the name
