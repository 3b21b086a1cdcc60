-- Whose every image is, and what its header says of its study and series: kept for each image, stored once for all that
-- say the same. What is here already is filled in by edge.backfill, beside the service.

-- The patient's attributes as an object has them (PS3.3 C.2.2, C.7.1.1): one row for each spelling.
CREATE TABLE patient (
    id                 INTEGER PRIMARY KEY,
    patient_id         TEXT NOT NULL,
    issuer             TEXT NOT NULL,
    name               TEXT NOT NULL,
    birth_date         TEXT NOT NULL,
    sex                TEXT NOT NULL,
    responsible_person TEXT NOT NULL,      -- of an animal
    UNIQUE (patient_id, issuer, name, birth_date, sex, responsible_person)
);

-- The patients of a study. The first agrees with itself; one that differs is a mismatch until a person has decided.
CREATE TABLE study_patient (
    study_id    BIGINT NOT NULL REFERENCES study (id),
    patient_key BIGINT NOT NULL REFERENCES patient (id),
    standing    TEXT NOT NULL CHECK (standing IN ('agrees', 'differs', 'accepted')),
    differs_in  TEXT NOT NULL DEFAULT '',   -- 'id', 'issuer', 'name', 'birth-date', 'sex', 'responsible-person', by commas
    against_key BIGINT REFERENCES patient (id),  -- differs: from whom
    first_at    DOUBLE PRECISION NOT NULL,
    alarmed_at  DOUBLE PRECISION,           -- differs: since when images of it are here that are not held for it
    settled_at  DOUBLE PRECISION,           -- a person has acknowledged these
    PRIMARY KEY (study_id, patient_key)
);
CREATE INDEX study_patient_patient ON study_patient (patient_key);
CREATE INDEX study_patient_alarm ON study_patient (alarmed_at) WHERE alarmed_at IS NOT NULL AND settled_at IS NULL;

-- What the headers of a study's objects say of it (PS3.3 C.7.2.1).
CREATE TABLE study_facts (
    id                  INTEGER PRIMARY KEY,
    study_id            BIGINT NOT NULL REFERENCES study (id),
    patient_key         BIGINT NOT NULL REFERENCES patient (id),
    accession           TEXT NOT NULL,
    study_date          TEXT NOT NULL,
    study_time          TEXT NOT NULL,
    study_number        TEXT NOT NULL,      -- Study ID (0020,0010)
    description         TEXT NOT NULL,
    referring_physician TEXT NOT NULL,
    UNIQUE (study_id, patient_key, accession, study_date, study_time, study_number, description, referring_physician)
);

-- The same of a series (PS3.3 C.7.3.1).
CREATE TABLE series (
    id             INTEGER PRIMARY KEY,
    study_facts_id BIGINT NOT NULL REFERENCES study_facts (id),
    series_uid     TEXT NOT NULL,
    modality       TEXT NOT NULL,
    series_number  TEXT NOT NULL,
    description    TEXT NOT NULL,
    body_part      TEXT NOT NULL,
    UNIQUE (study_facts_id, series_uid, modality, series_number, description, body_part)
);

ALTER TABLE instance ADD COLUMN series_id BIGINT REFERENCES series (id);  -- NULL: it has no study, or is not filled in
ALTER TABLE instance ADD COLUMN instance_number TEXT NOT NULL DEFAULT '';

-- Who lets an image go that is held as another patient's accepts that patient for that study.
CREATE TRIGGER delivery_mismatch_released AFTER UPDATE OF state ON delivery
    WHEN OLD.state = 'held' AND OLD.reason_code = 'mismatch' AND NEW.state = 'pending' BEGIN
    UPDATE study_patient SET standing = 'accepted' WHERE standing = 'differs' AND (study_id, patient_key) IN
        (SELECT f.study_id, f.patient_key FROM instance i JOIN series r ON r.id = i.series_id
         JOIN study_facts f ON f.id = r.study_facts_id WHERE i.id = NEW.instance_id);
END;

-- How far the images that were here before are read: their headers are looked at once.
INSERT INTO gateway SELECT 'backfill', '{"last": ' || (SELECT max(id) FROM instance) || '}'
    WHERE EXISTS (SELECT 1 FROM instance);
