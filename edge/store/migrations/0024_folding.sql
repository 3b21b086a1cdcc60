-- What was evicted long ago lies in yearly files beside the catalog (edge/store/folding.py); here is where.

-- A block of a yearly file: its bytes are those of `folded/YEAR.jsonl.gz` from `position` on.
CREATE TABLE folded_block (
    id       INTEGER PRIMARY KEY,
    year     BIGINT NOT NULL,
    position BIGINT NOT NULL,
    length   BIGINT NOT NULL,
    sha256   BLOB NOT NULL,
    UNIQUE (year, position)
);

CREATE TABLE folded_study (
    study_uid TEXT PRIMARY KEY,
    study_id  BIGINT NOT NULL UNIQUE,
    block_id  BIGINT NOT NULL REFERENCES folded_block (id),
    first_at  DOUBLE PRECISION NOT NULL,   -- of its rows of the ledger
    last_at   DOUBLE PRECISION NOT NULL,
    last_seq  BIGINT NOT NULL,             -- the last row of the ledger that lies in the file
    last_id   BIGINT NOT NULL,             -- its greatest number of an instance
    is_whole  BIGINT NOT NULL DEFAULT 0    -- 1: no row of it is left in the catalog
);
CREATE INDEX folded_study_open ON folded_study (is_whole) WHERE is_whole = 0;

CREATE TABLE folded_patient (
    patient_id TEXT NOT NULL,
    study_uid  TEXT NOT NULL,
    PRIMARY KEY (patient_id, study_uid)
);

-- Of the counts in `tally` and `instance_tally`, what lies in the files.
CREATE TABLE folded_tally (
    destination TEXT NOT NULL,
    state       TEXT NOT NULL,
    kind_id     BIGINT NOT NULL,
    priority    BIGINT NOT NULL,
    n           BIGINT NOT NULL,
    bytes       BIGINT NOT NULL,
    PRIMARY KEY (destination, state, kind_id, priority)
);
CREATE TABLE folded_instance_tally (
    state TEXT PRIMARY KEY,
    n     BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);

-- Rows of the ledger that lie in the files, in ranges that do not touch; the chain goes on with `last_hash`.
CREATE TABLE folded_ledger (
    first_seq BIGINT PRIMARY KEY,
    last_seq  BIGINT NOT NULL UNIQUE,
    last_hash BLOB NOT NULL
);

-- Rows may be deleted only where a range says that they lie in a file.
DROP TRIGGER ledger_is_append_only_delete;
CREATE TRIGGER ledger_is_append_only_delete BEFORE DELETE ON ledger
    WHEN OLD.seq > coalesce((SELECT last_seq FROM folded_ledger WHERE first_seq <= OLD.seq
                             ORDER BY first_seq DESC LIMIT 1), 0) BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;

-- A series is looked for among the instances when it goes.
CREATE INDEX instance_series ON instance (series_id);
