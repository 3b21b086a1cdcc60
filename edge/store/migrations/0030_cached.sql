-- Cached instances: fetched from a destination, kept as long as there is room, owed to nobody.
ALTER TABLE instance ADD COLUMN fetched_from TEXT NOT NULL DEFAULT '';  -- the destination; '' came by a door of ours
-- What retention lets go of first, in the order in which it was fetched.
CREATE INDEX instance_cached ON instance (received_at)
    WHERE fetched_from <> '' AND state = 'stored' AND open_deliveries = 0 AND hold = '';
-- Of the counts in `instance_tally`, what was fetched, since the catalog began.
CREATE TABLE fetched_tally (
    source TEXT PRIMARY KEY,
    n      BIGINT NOT NULL,
    bytes  BIGINT NOT NULL
);
