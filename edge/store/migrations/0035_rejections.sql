-- Rejection notes (IHE RAD TF-3, Imaging Object Change Management): key objects that reject instances.
CREATE TABLE rejection_note (
    instance_id      INTEGER PRIMARY KEY REFERENCES instance (id),
    sop_instance_uid TEXT NOT NULL,
    code             TEXT NOT NULL,               -- 113001, 113037, 113038, 113039 (PS3.16 annex D)
    calling_ae       TEXT NOT NULL,
    is_allowed       INTEGER NOT NULL,            -- its sender may reject; else it does nothing here, and is held
    received_at      DOUBLE PRECISION NOT NULL
);

CREATE TABLE rejection_reference (
    note_id          INTEGER NOT NULL REFERENCES rejection_note (instance_id),
    sop_instance_uid TEXT NOT NULL,
    PRIMARY KEY (note_id, sop_instance_uid)
) WITHOUT ROWID;

-- What is rejected now: of several notes the strongest.
CREATE TABLE rejected_instance (
    sop_instance_uid TEXT PRIMARY KEY,
    code             TEXT NOT NULL,
    note_uid         TEXT NOT NULL,
    is_hidden        INTEGER NOT NULL,
    rejected_at      DOUBLE PRECISION NOT NULL
) WITHOUT ROWID;
