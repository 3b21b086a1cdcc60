-- What went out under other UIDs: the way back for results that come from there. It never leaves this machine.
CREATE TABLE deidentified_instance (
    destination      TEXT NOT NULL,
    sent_uid         TEXT NOT NULL,              -- SOP Instance UID of the copy
    sent_study_uid   TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    study_uid        TEXT NOT NULL,
    series_uid       TEXT NOT NULL,
    sent_series_uid  TEXT NOT NULL,
    PRIMARY KEY (sent_uid, destination)
) WITHOUT ROWID;
CREATE INDEX deidentified_study ON deidentified_instance (sent_study_uid);

-- Objects whose pixels a person has inspected: they may go to this destination.
CREATE TABLE pixel_approval (
    instance_id INTEGER NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    PRIMARY KEY (instance_id, destination)
) WITHOUT ROWID;
CREATE TRIGGER delivery_pixels_approved AFTER UPDATE OF state ON delivery
    WHEN OLD.state = 'held' AND OLD.reason_code = 'may-name-patient' AND NEW.state = 'pending'
    AND NEW.destination = OLD.destination BEGIN
    INSERT OR IGNORE INTO pixel_approval (instance_id, destination)
        VALUES (NEW.instance_id, NEW.destination);
END;
