-- What a destination was sent otherwise than as received: one row for each delivery whose last copy had other bytes.
CREATE TABLE sent_copy (
    delivery_id         INTEGER PRIMARY KEY REFERENCES delivery (id) ON DELETE CASCADE,
    instance_id         INTEGER NOT NULL REFERENCES instance (id),
    at                  REAL NOT NULL,
    sha256              BLOB NOT NULL,             -- of the data set as sent
    transfer_syntax_uid TEXT NOT NULL,
    rules               TEXT NOT NULL DEFAULT '',  -- a JSON list of those that changed an attribute; empty: none did
    sop_instance_uid    TEXT NOT NULL DEFAULT '',  -- the UIDs as sent; empty: as received
    study_uid           TEXT NOT NULL DEFAULT '',
    series_uid          TEXT NOT NULL DEFAULT '',
    received_bytes      INTEGER NOT NULL,
    bytes               INTEGER NOT NULL
);
CREATE INDEX sent_copy_instance ON sent_copy (instance_id);
CREATE INDEX sent_copy_uid ON sent_copy (sop_instance_uid) WHERE sop_instance_uid <> '';

-- Since when each [coerce] rule is what it is: the time that Original Attributes Sequence says, the same at each retry.
CREATE TABLE coerce_rule (
    name   TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    since  REAL NOT NULL
) WITHOUT ROWID;

-- What such copies have saved (or cost) on the line, by destination.
CREATE TABLE sent_tally (
    destination    TEXT PRIMARY KEY,
    copies         INTEGER NOT NULL,
    received_bytes INTEGER NOT NULL,
    bytes          INTEGER NOT NULL
) WITHOUT ROWID;
