-- How often the destination has said that it lacks what was sent; `attempts` counts the C-STOREs that failed, too.
ALTER TABLE delivery ADD COLUMN denials INTEGER NOT NULL DEFAULT 0;

-- Ended requests for proof are let go after a while.
CREATE INDEX commitment_ended ON commitment (ended_at) WHERE ended_at IS NOT NULL;
