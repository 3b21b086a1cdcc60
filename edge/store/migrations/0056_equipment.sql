-- Every make under which an AE title at an address has sent: a new row is new equipment under a known name. And what a
-- person announces to the central office: equipment, storage, requirements to come.
CREATE TABLE equipment_make (
    ae_title     TEXT NOT NULL,
    address      TEXT NOT NULL,
    manufacturer TEXT NOT NULL,
    model        TEXT NOT NULL,
    serial       TEXT NOT NULL,
    software     TEXT NOT NULL,
    first_at     DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (ae_title, address, manufacturer, model, serial, software)
);
ALTER TABLE peer ADD COLUMN serial TEXT NOT NULL DEFAULT '';
ALTER TABLE peer ADD COLUMN software TEXT NOT NULL DEFAULT '';
ALTER TABLE peer ADD COLUMN changed_at DOUBLE PRECISION;              -- when its make was last a new one
ALTER TABLE peer ADD COLUMN change TEXT NOT NULL DEFAULT '[]';        -- JSON: the make before, and the new one
CREATE INDEX series_facts_base ON series_facts (base_id);

CREATE TABLE announcement (
    id            INTEGER PRIMARY KEY,
    kind          TEXT NOT NULL CHECK (kind IN ('equipment', 'storage', 'requirement')),
    at            DOUBLE PRECISION NOT NULL,
    who           TEXT NOT NULL,
    from_date     TEXT NOT NULL,             -- YYYY-MM-DD: from when on it holds
    expected_bytes_per_month BIGINT,         -- NULL: not said
    said          TEXT NOT NULL
);

-- 0028,2110 of each object: "01" where it was ever compressed with loss (PS3.3 C.7.6.1.1.5).
ALTER TABLE instance_header ADD COLUMN lossy TEXT NOT NULL DEFAULT '';
