-- Patients and orders as the feeds of HL7 know them. What images say of their patients is in `patient`.

-- Who assigns numbers: CX-4, HD-1 to HD-3. Two are the same where the namespace or the universal ID is.
CREATE TABLE assigning_authority (
    id             INTEGER PRIMARY KEY,
    namespace      TEXT NOT NULL,
    universal_id   TEXT NOT NULL,
    universal_type TEXT NOT NULL
);
CREATE INDEX assigning_authority_namespace ON assigning_authority (namespace) WHERE namespace <> '';
CREATE INDEX assigning_authority_universal ON assigning_authority (universal_id) WHERE universal_id <> '';

CREATE TABLE known_patient (
    id          INTEGER PRIMARY KEY,
    survivor_id BIGINT REFERENCES known_patient (id),  -- the end of its chain of merges; NULL: it is in none
    name        TEXT NOT NULL DEFAULT '',              -- as VR PN
    birth_date  TEXT NOT NULL DEFAULT '',
    sex         TEXT NOT NULL DEFAULT '',
    is_in_doubt INTEGER NOT NULL DEFAULT 0,            -- the character set of the name is not known
    feed        TEXT NOT NULL DEFAULT '',              -- that brought the last change
    changed_at  DOUBLE PRECISION NOT NULL
);
CREATE INDEX known_patient_survivor ON known_patient (survivor_id) WHERE survivor_id IS NOT NULL;

CREATE TABLE patient_identifier (
    id           INTEGER PRIMARY KEY,
    number       TEXT NOT NULL,
    authority_id BIGINT NOT NULL REFERENCES assigning_authority (id),
    patient_key  BIGINT NOT NULL REFERENCES known_patient (id),
    type         TEXT NOT NULL DEFAULT '',             -- CX-5
    valid_until  TEXT NOT NULL DEFAULT '',             -- CX-8, YYYYMMDD
    UNIQUE (number, authority_id)
);
CREATE INDEX patient_identifier_patient ON patient_identifier (patient_key);

-- One row a pair, however often it is merged and reversed.
CREATE TABLE patient_merge (
    old_id     BIGINT NOT NULL REFERENCES patient_identifier (id),
    new_id     BIGINT NOT NULL REFERENCES patient_identifier (id),
    old_key    BIGINT NOT NULL REFERENCES known_patient (id),
    new_key    BIGINT NOT NULL REFERENCES known_patient (id),
    is_current INTEGER NOT NULL,                       -- 0: the reverse of it came later
    merged_at  DOUBLE PRECISION NOT NULL,
    message_id BIGINT,
    PRIMARY KEY (old_id, new_id)
);
CREATE INDEX patient_merge_keys ON patient_merge (old_key, new_key);

CREATE TABLE imaging_order (
    id                  INTEGER PRIMARY KEY,
    patient_key         BIGINT NOT NULL REFERENCES known_patient (id),
    identifier_id       BIGINT NOT NULL REFERENCES patient_identifier (id),  -- the number that the order names
    accession           TEXT NOT NULL,
    issuer              TEXT NOT NULL,
    placer_number       TEXT NOT NULL,
    filler_number       TEXT NOT NULL,
    study_uid           TEXT NOT NULL,
    procedure_id        TEXT NOT NULL,
    procedure_code      TEXT NOT NULL,
    procedure_scheme    TEXT NOT NULL,
    procedure_text      TEXT NOT NULL,
    step_id             TEXT NOT NULL,
    station_ae          TEXT NOT NULL,
    station_name        TEXT NOT NULL,
    modality            TEXT NOT NULL,
    scheduled_at        TEXT NOT NULL,
    priority            INTEGER NOT NULL,
    status              TEXT NOT NULL CHECK (status IN ('open', 'in-progress', 'completed', 'cancelled')),
    physician           TEXT NOT NULL,
    referring_physician TEXT NOT NULL,
    is_in_doubt         INTEGER NOT NULL DEFAULT 0,
    feed                TEXT NOT NULL,
    created_by          BIGINT,                        -- the message
    created_at          DOUBLE PRECISION NOT NULL,
    changed_at          DOUBLE PRECISION NOT NULL
);
CREATE INDEX imaging_order_accession ON imaging_order (accession) WHERE accession <> '';
CREATE INDEX imaging_order_study ON imaging_order (study_uid) WHERE study_uid <> '';
CREATE INDEX imaging_order_procedure ON imaging_order (procedure_id) WHERE procedure_id <> '';
CREATE INDEX imaging_order_placer ON imaging_order (placer_number) WHERE placer_number <> '';
CREATE INDEX imaging_order_patient ON imaging_order (patient_key);
CREATE INDEX imaging_order_open ON imaging_order (scheduled_at) WHERE status IN ('open', 'in-progress');
CREATE INDEX imaging_order_changed ON imaging_order (changed_at);
