-- What people bring: batches of files, staged beside the catalog until somebody says whose they are.
CREATE TABLE import_batch (
    id        INTEGER PRIMARY KEY,
    source    TEXT NOT NULL,             -- what was read, as a person knows it
    door      TEXT NOT NULL,             -- command, upload, or drop NAME
    who       TEXT NOT NULL,
    began_at  DOUBLE PRECISION NOT NULL,
    ended_at  DOUBLE PRECISION,          -- NULL: it is still read, or broke off
    foreign_files BIGINT NOT NULL DEFAULT 0,
    missing   TEXT NOT NULL DEFAULT '[]',  -- JSON: files that a DICOMDIR names and that are not there
    unlisted  BIGINT NOT NULL DEFAULT 0    -- DICOM files that it does not name
);
CREATE INDEX import_batch_open ON import_batch (source, door) WHERE ended_at IS NULL;

-- The objects of one study and patient in a batch: that is what a person decides about.
CREATE TABLE import_study (
    id           INTEGER PRIMARY KEY,
    batch_id     BIGINT NOT NULL REFERENCES import_batch (id),
    study_uid    TEXT NOT NULL,          -- empty: documents, which get one
    patient_id   TEXT NOT NULL,
    issuer       TEXT NOT NULL,
    patient_name TEXT NOT NULL,
    birth_date   TEXT NOT NULL,
    sex          TEXT NOT NULL,
    study_date   TEXT NOT NULL,
    description  TEXT NOT NULL,
    modality     TEXT NOT NULL,
    accession    TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('staged', 'assigned', 'imported', 'discarded')),
    identity     TEXT,                   -- JSON: whose it is here
    decided_by   TEXT NOT NULL DEFAULT '',
    decided_at   DOUBLE PRECISION,
    reason       TEXT NOT NULL DEFAULT '',
    UNIQUE (batch_id, study_uid, patient_id, issuer, patient_name, birth_date, sex)
);
CREATE INDEX import_study_waiting ON import_study (state) WHERE state IN ('staged', 'assigned');

CREATE TABLE import_object (
    id                  INTEGER PRIMARY KEY,
    study_id            BIGINT NOT NULL REFERENCES import_study (id),
    batch_id            BIGINT NOT NULL,
    name                TEXT NOT NULL,   -- in its source
    kind                TEXT NOT NULL,   -- dicom, or what is wrapped: pdf, jpeg, png, mp4, stl
    size                BIGINT NOT NULL, -- of the file
    modified            DOUBLE PRECISION NOT NULL,
    path                TEXT NOT NULL,   -- below the folder of staged files; empty: its file is gone
    sha256              BLOB NOT NULL,   -- of the file
    sop_class_uid       TEXT NOT NULL,
    sop_instance_uid    TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    dataset_offset      BIGINT NOT NULL,
    state               TEXT NOT NULL CHECK (state IN ('staged', 'imported', 'known', 'failed', 'discarded')),
    note                TEXT NOT NULL DEFAULT ''
);
CREATE INDEX import_object_study ON import_object (study_id);
CREATE INDEX import_object_batch ON import_object (batch_id, name);
CREATE INDEX import_object_digest ON import_object (sha256) WHERE state IN ('imported', 'known');

CREATE TABLE import_skipped (
    batch_id BIGINT NOT NULL REFERENCES import_batch (id),
    name     TEXT NOT NULL,
    code     TEXT NOT NULL,
    detail   TEXT NOT NULL,
    PRIMARY KEY (batch_id, name)
);
