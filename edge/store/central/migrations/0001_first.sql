-- One text for SQLite and PostgreSQL. $ID is the dialect's own number of a row, $CLUSTERED keeps the rows of a table in the
-- order of its key where the dialect can. Moments are seconds since 1970 (UTC).

-- What is known of each site by its latest heartbeat.
CREATE TABLE site (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    number          BIGINT NOT NULL,            -- the highest that came
    at              DOUBLE PRECISION NOT NULL,  -- of that heartbeat, by the site's clock
    heard_at        DOUBLE PRECISION NOT NULL,  -- when anything last came, by ours
    every           DOUBLE PRECISION NOT NULL,  -- seconds between two heartbeats
    boot            TEXT NOT NULL,
    version         TEXT NOT NULL,
    state           TEXT NOT NULL,
    severity        TEXT NOT NULL,              -- of its worst open alert, or empty
    alerts          INTEGER NOT NULL,
    used_fraction   DOUBLE PRECISION,
    full_in         DOUBLE PRECISION,           -- seconds, by the site's own forecast
    backlog         BIGINT NOT NULL,            -- instances that have still to go
    links_down      INTEGER NOT NULL,
    received        BIGINT NOT NULL,
    stored_bytes    BIGINT NOT NULL,
    ledger_seq      BIGINT NOT NULL,
    ledger_head     TEXT NOT NULL,
    status          TEXT NOT NULL               -- the document's, as JSON
);

-- The numbers that came, so that the same heartbeat counts once; the latest of each site are kept.
CREATE TABLE beat (
    site            TEXT NOT NULL,
    number          BIGINT NOT NULL,
    at              DOUBLE PRECISION NOT NULL,
    digest          TEXT NOT NULL,
    PRIMARY KEY (site, number)
);

-- The numbers that did not come (yet).
CREATE TABLE gap (
    site            TEXT NOT NULL,
    first           BIGINT NOT NULL,
    last            BIGINT NOT NULL,
    noticed_at      DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (site, first)
);

-- The ledger's head now and then: what a site may not unsay.
CREATE TABLE head (
    site            TEXT NOT NULL,
    seq             BIGINT NOT NULL,
    head            TEXT NOT NULL,
    at              DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (site, seq)
);

-- Measured values by minute, hour and day, from `at`. Minutes are kept for days, hours for 13 months, days for ever.
CREATE TABLE history_minute (
    site            TEXT NOT NULL,
    at              BIGINT NOT NULL,
    beats           INTEGER NOT NULL,
    used            DOUBLE PRECISION,           -- the most, in bytes
    total           DOUBLE PRECISION,           -- the file system's size in bytes
    backlog         BIGINT NOT NULL,            -- the most
    backlog_bytes   BIGINT NOT NULL,
    oldest          DOUBLE PRECISION NOT NULL,  -- the greatest age of what waits, in seconds
    received        BIGINT NOT NULL,            -- instances that came in this span
    received_bytes  BIGINT NOT NULL,
    PRIMARY KEY (site, at)
) $CLUSTERED;
CREATE TABLE history_hour (
    site            TEXT NOT NULL,
    at              BIGINT NOT NULL,
    beats           INTEGER NOT NULL,
    used            DOUBLE PRECISION,
    total           DOUBLE PRECISION,
    backlog         BIGINT NOT NULL,
    backlog_bytes   BIGINT NOT NULL,
    oldest          DOUBLE PRECISION NOT NULL,
    received        BIGINT NOT NULL,
    received_bytes  BIGINT NOT NULL,
    PRIMARY KEY (site, at)
) $CLUSTERED;
CREATE TABLE history_day (
    site            TEXT NOT NULL,
    at              BIGINT NOT NULL,
    beats           INTEGER NOT NULL,
    used            DOUBLE PRECISION,
    total           DOUBLE PRECISION,
    backlog         BIGINT NOT NULL,
    backlog_bytes   BIGINT NOT NULL,
    oldest          DOUBLE PRECISION NOT NULL,
    received        BIGINT NOT NULL,
    received_bytes  BIGINT NOT NULL,
    PRIMARY KEY (site, at)
) $CLUSTERED;

-- What goes on until someone or something ends it. One of ours, or one that a site told.
CREATE TABLE incident (
    id              $ID,
    kind            TEXT NOT NULL,
    site            TEXT,                       -- empty where it is about several
    subject         TEXT NOT NULL,
    severity        TEXT NOT NULL,
    opened_at       DOUBLE PRECISION NOT NULL,
    closed_at       DOUBLE PRECISION,
    acknowledged_at DOUBLE PRECISION,
    escalated_at    DOUBLE PRECISION,
    told_open_at    DOUBLE PRECISION,           -- when the office wrote to its people about it
    told_close_at   DOUBLE PRECISION,
    text            TEXT NOT NULL,
    means           TEXT NOT NULL,
    todo            TEXT NOT NULL,
    notice          TEXT,                       -- the site's own number of it
    merged_into     BIGINT
);
CREATE INDEX incident_open ON incident (opened_at) WHERE closed_at IS NULL;
CREATE INDEX incident_site ON incident (site, opened_at);
CREATE INDEX incident_opened ON incident (opened_at);

CREATE TABLE incident_note (
    id              $ID,
    incident        BIGINT NOT NULL REFERENCES incident (id),
    at              DOUBLE PRECISION NOT NULL,
    who             TEXT NOT NULL,
    text            TEXT NOT NULL
);
CREATE INDEX incident_note_of ON incident_note (incident, id);

-- One site's silence, and what it turned out to be: "down", or only "unreachable".
CREATE TABLE outage (
    id              $ID,
    incident        BIGINT REFERENCES incident (id),
    site            TEXT NOT NULL,
    silent_from     DOUBLE PRECISION NOT NULL,
    returned_at     DOUBLE PRECISION,
    cause           TEXT NOT NULL,              -- "" while nobody knows
    down_from       DOUBLE PRECISION,           -- measured here
    down_to         DOUBLE PRECISION,
    told_from       DOUBLE PRECISION,           -- by the site itself
    told_to         DOUBLE PRECISION,
    why             TEXT NOT NULL
);
CREATE INDEX outage_open ON outage (site) WHERE returned_at IS NULL;
CREATE INDEX outage_site ON outage (site, silent_from);
CREATE INDEX outage_incident ON outage (incident);

-- What the office has to tell others: as a site's outbox.
CREATE TABLE message (
    id              $ID,
    channel         TEXT NOT NULL,
    kind            TEXT NOT NULL,
    at              DOUBLE PRECISION NOT NULL,
    body            TEXT NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_try        DOUBLE PRECISION NOT NULL DEFAULT 0,
    last_error      TEXT NOT NULL DEFAULT ''
);
CREATE INDEX message_channel ON message (channel, id);

-- What the office remembers about itself.
CREATE TABLE office (
    name            TEXT PRIMARY KEY,
    value           TEXT NOT NULL
);
