-- Objects without an image of their own (reports, key objects, presentation states, segmentations, documents ...).
-- companion: 0 an image, 1 goes where its study's images go as well, 2 goes only where a route that names it leads.
ALTER TABLE instance ADD COLUMN companion INTEGER NOT NULL DEFAULT 0;
CREATE INDEX instance_follower ON instance (study_id) WHERE companion = 1;

-- Images that a key object takes along and that have not come yet.
CREATE TABLE taken_along (
    sop_instance_uid TEXT NOT NULL,
    destination      TEXT NOT NULL,
    priority         INTEGER NOT NULL,
    route            TEXT NOT NULL,
    noted_at         DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (sop_instance_uid, destination)
) WITHOUT ROWID;
