-- What a person has refused: when, until when its bytes are kept, and what it was released as.
ALTER TABLE instance ADD COLUMN discarded_at DOUBLE PRECISION;   -- state 'discarded': since when
ALTER TABLE instance ADD COLUMN deleted_at DOUBLE PRECISION;     -- its file was deleted then; the digest stays
ALTER TABLE instance ADD COLUMN released_as BIGINT;              -- out of quarantine: the instance that it has become
CREATE INDEX instance_discarded ON instance (discarded_at) WHERE state = 'discarded' AND deleted_at IS NULL;
