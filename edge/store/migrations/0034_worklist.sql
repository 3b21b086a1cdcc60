-- The modality worklist (PS3.4 annex K) as it was last read from its source. `view`: for which [modality.NAME] the
-- source was asked; '': for all.
CREATE TABLE worklist_item (
    id          INTEGER PRIMARY KEY,
    view        TEXT NOT NULL,
    body        BLOB NOT NULL,              -- the item, explicit VR little endian, UTF-8
    charset     TEXT NOT NULL,              -- Specific Character Set as its source wrote it
    study_uid   TEXT NOT NULL,
    step_id     TEXT NOT NULL,              -- Scheduled Procedure Step ID
    starts_at   TEXT NOT NULL               -- YYYYMMDDHHMMSS, local time
);
CREATE INDEX worklist_item_view ON worklist_item (view, starts_at);
CREATE INDEX worklist_item_step ON worklist_item (study_uid, step_id);

CREATE TABLE worklist_source (
    view        TEXT PRIMARY KEY,
    version     INTEGER NOT NULL DEFAULT 0, -- grows with each change of its items
    digest      BLOB NOT NULL DEFAULT x'',  -- of its items
    as_of       DOUBLE PRECISION,           -- when the last complete list came
    failures    INTEGER NOT NULL DEFAULT 0, -- in a row
    failed_at   DOUBLE PRECISION,           -- the first of them
    last_error  TEXT NOT NULL DEFAULT ''
);

-- Study Instance UIDs that were made for requested procedures without one: the same at every poll.
CREATE TABLE worklist_study (
    procedure_key TEXT PRIMARY KEY,
    study_uid     TEXT NOT NULL,
    used_at       DOUBLE PRECISION NOT NULL
);
CREATE INDEX worklist_study_used ON worklist_study (used_at);
