-- Whether the identity of what is here fits its order. One row for all images that say the same of patient and study.
CREATE TABLE identity_check (
    study_facts_id BIGINT PRIMARY KEY REFERENCES study_facts (id),
    study_id       BIGINT NOT NULL,
    result         TEXT NOT NULL,              -- matched, no-order, differs
    order_id       BIGINT REFERENCES imaging_order (id),
    differs_in     TEXT NOT NULL DEFAULT '',   -- by commas
    notes          TEXT NOT NULL DEFAULT '',   -- by commas
    images         BIGINT NOT NULL DEFAULT 0,  -- counted behind
    first_at       DOUBLE PRECISION NOT NULL,  -- when its first image came
    checked_at     DOUBLE PRECISION NOT NULL,
    has_differed   INTEGER NOT NULL DEFAULT 0, -- it differed at some time
    settled_at     DOUBLE PRECISION            -- a person has decided about it, or acknowledged the alert
);
CREATE INDEX identity_check_first ON identity_check (first_at);
CREATE INDEX identity_check_study ON identity_check (study_id);
CREATE INDEX identity_check_open ON identity_check (result) WHERE settled_at IS NULL AND result <> 'matched';
CREATE INDEX identity_check_order ON identity_check (order_id);

-- What is to be checked again: an order, a patient or a merge has come.
CREATE TABLE identity_recheck (
    study_facts_id BIGINT PRIMARY KEY
);

-- A person decided whose a study is.
CREATE TABLE study_assignment (
    study_id      BIGINT PRIMARY KEY REFERENCES study (id),
    identifier_id BIGINT NOT NULL REFERENCES patient_identifier (id),
    person        TEXT NOT NULL,
    reason        TEXT NOT NULL,
    assigned_at   DOUBLE PRECISION NOT NULL
);

-- Who lets an image go that is held because its patient differs from the order's accepts that for its study.
CREATE TRIGGER delivery_order_mismatch_released AFTER UPDATE OF state ON delivery
    WHEN OLD.state = 'held' AND OLD.reason_code = 'mismatch' AND NEW.state = 'pending' BEGIN
    UPDATE identity_check SET settled_at = (julianday('now') - 2440587.5) * 86400.0
    WHERE settled_at IS NULL AND result = 'differs' AND study_facts_id IN
        (SELECT r.study_facts_id FROM instance i JOIN series r ON r.id = i.series_id WHERE i.id = NEW.instance_id);
END;
