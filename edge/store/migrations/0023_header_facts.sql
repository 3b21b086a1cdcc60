-- What queries answer beyond the words of 0010, and the rest of each header, compactly. Read behind the answer to the
-- sender by edge.storage.backfill, for what is here already as well.

-- A name as it is compared: without case, accents and empty components; NULL: not folded yet.
ALTER TABLE patient ADD COLUMN folded_name TEXT;
CREATE INDEX patient_folded_name ON patient (folded_name);
CREATE INDEX study_facts_accession ON study_facts (accession) WHERE accession <> '';
CREATE INDEX study_facts_date ON study_facts (study_date, study_time);

-- What the first object of a series says beyond the columns of `patient`, `study_facts` and `series`.
CREATE TABLE series_facts (
    series_id BIGINT PRIMARY KEY REFERENCES series (id),
    base_id   BIGINT NOT NULL,            -- the instance whose header the others of the series differ from
    facts     TEXT NOT NULL               -- JSON: keyword -> text, or of a sequence the first item: keyword -> text
);

CREATE TABLE instance_header (
    instance_id    BIGINT PRIMARY KEY REFERENCES instance (id),
    base_id        BIGINT,                -- NULL: the header stands alone, else it is a difference from that one's
    pixel_rows     BIGINT,
    pixel_columns  BIGINT,
    frames         BIGINT,
    bits_allocated BIGINT,
    content_date   TEXT NOT NULL,
    content_time   TEXT NOT NULL,
    title          TEXT NOT NULL,         -- of a report, key object selection or document
    header         BLOB NOT NULL          -- zlib (RFC 1950) of edge.dicom.compact; its dictionary is the base's header
);

-- The headers are read from the first instance on.
DELETE FROM gateway WHERE name = 'backfill';
INSERT INTO gateway SELECT 'backfill', '{"last": ' || (SELECT max(id) FROM instance) || '}'
    WHERE EXISTS (SELECT 1 FROM instance);
