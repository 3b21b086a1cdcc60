-- How often the destination has said that it lacks what was sent; `attempts` counts the C-STOREs that failed, too.
ALTER TABLE delivery ADD COLUMN denials INTEGER NOT NULL DEFAULT 0;

-- A repaired file may be longer or shorter than the one it replaces.
CREATE TRIGGER instance_resized AFTER UPDATE OF size ON instance
    WHEN OLD.size <> NEW.size AND OLD.state = NEW.state BEGIN
    UPDATE instance_tally SET bytes = bytes - OLD.size + NEW.size WHERE state = NEW.state;
END;

-- Ended requests for proof are let go after a while.
CREATE INDEX commitment_ended ON commitment (ended_at) WHERE ended_at IS NOT NULL;
