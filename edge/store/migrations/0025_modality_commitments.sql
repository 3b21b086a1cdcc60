-- What modalities ask of us as storage commitment (PS3.4 Annex J). What we ask of archives is in `commitment`.
CREATE TABLE commitment_request (
    id               INTEGER PRIMARY KEY,
    transaction_uid  TEXT NOT NULL,
    calling_ae       TEXT NOT NULL,
    called_ae        TEXT NOT NULL,
    address          TEXT NOT NULL,
    modality         TEXT NOT NULL,              -- the [modality.NAME] that it was
    is_tls           INTEGER NOT NULL,           -- it came over TLS, and so goes the report
    digest           BLOB NOT NULL,              -- SHA-256 of what it names
    record           TEXT NOT NULL,              -- the record of the journal that brought it
    instances        INTEGER NOT NULL,
    state            TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'decided', 'reported')),
    requested_at     DOUBLE PRECISION NOT NULL,
    not_before       DOUBLE PRECISION NOT NULL,  -- when it is examined or reported next
    tries            INTEGER NOT NULL DEFAULT 0, -- to report it, in a row
    tried_at         DOUBLE PRECISION,
    last_error       TEXT NOT NULL DEFAULT '',
    reported_at      DOUBLE PRECISION,           -- when the modality acknowledged the report first
    failed           INTEGER,                    -- instances that the report names as failed
    UNIQUE (calling_ae, transaction_uid, digest)
);
CREATE INDEX commitment_request_open ON commitment_request (not_before) WHERE state <> 'reported';
CREATE INDEX commitment_request_old ON commitment_request (reported_at) WHERE state = 'reported';

CREATE TABLE commitment_reference (
    request_id       INTEGER NOT NULL REFERENCES commitment_request (id),
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid    TEXT NOT NULL,
    is_ambiguous     INTEGER NOT NULL,           -- it is named under several SOP classes
    failure          INTEGER,                    -- Failure Reason as reported; 0: committed; NULL: not reported yet
    PRIMARY KEY (request_id, sop_instance_uid)
) WITHOUT ROWID;
CREATE INDEX commitment_reference_uid ON commitment_reference (sop_instance_uid);
