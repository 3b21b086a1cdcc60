-- The heads of a site's custody ledger, which are never changed and never deleted: another ledger (a catalog that was made
-- anew, or one that a person has accepted after an incident) is another era.
ALTER TABLE head RENAME TO head_before;
CREATE TABLE head (
    site            TEXT NOT NULL,
    era             BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    head            TEXT NOT NULL,
    at              DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (site, era, seq)
);
INSERT INTO head (site, era, seq, head, at) SELECT site, 1, seq, head, at FROM head_before;
DROP TABLE head_before;

-- The head that was acknowledged last: every heartbeat shows what the site's ledger says at that entry.
CREATE TABLE ledger (
    site            TEXT PRIMARY KEY,
    era             BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    head            TEXT NOT NULL,
    at              DOUBLE PRECISION NOT NULL,  -- when it was acknowledged, by our clock
    head_at         DOUBLE PRECISION NOT NULL,  -- when a head was last kept for good
    proved_seq      BIGINT,                     -- the last that was shown to be part of the ledger; empty: none yet
    proved_at       DOUBLE PRECISION,
    incident        BIGINT                      -- which says that the ledger contradicts it
);
