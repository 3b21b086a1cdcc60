-- Figures without patients: of each day (days since 1970, UTC) and sender how many objects came, and how many of them
-- said what they should; of each study how long its proof took, and whether its dose report came.
CREATE TABLE daily_figure (
    day                 BIGINT NOT NULL,
    ae_title            TEXT NOT NULL,
    objects             BIGINT NOT NULL DEFAULT 0,
    patient_id          BIGINT NOT NULL DEFAULT 0,   -- in the form that [quality] asks for
    accession           BIGINT NOT NULL DEFAULT 0,
    description         BIGINT NOT NULL DEFAULT 0,
    referring_physician BIGINT NOT NULL DEFAULT 0,
    lossy               BIGINT NOT NULL DEFAULT 0,
    private             BIGINT NOT NULL DEFAULT 0,   -- of SOP classes that PS3.6 does not name
    PRIMARY KEY (day, ae_title)
);

-- Who sends lossy images of which that is not expected; a new spell begins after a day without.
CREATE TABLE lossy_sender (
    ae_title            TEXT PRIMARY KEY,
    first_at            DOUBLE PRECISION NOT NULL,
    last_at             DOUBLE PRECISION NOT NULL,
    n                   BIGINT NOT NULL,
    modality            TEXT NOT NULL,               -- of the last
    transfer_syntax_uid TEXT NOT NULL
);

CREATE TABLE measured_study (
    study_id  BIGINT PRIMARY KEY,
    ae_title  TEXT NOT NULL,                          -- who sent its first object
    first_at  DOUBLE PRECISION NOT NULL,              -- when that came
    proved_at DOUBLE PRECISION,                       -- NULL: not proved everywhere yet
    dose      TEXT NOT NULL DEFAULT ''                -- 'missing', 'there'; '': none is due
);
CREATE INDEX measured_study_first_at ON measured_study (first_at);
CREATE INDEX measured_study_unproved ON measured_study (first_at) WHERE proved_at IS NULL;

ALTER TABLE peer ADD COLUMN asked_worklist_at DOUBLE PRECISION;
