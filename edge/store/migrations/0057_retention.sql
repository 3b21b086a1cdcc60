-- How long an instance is kept, by the rule [retention.NAME] that it met when it came; '': [retention] keep alone. And
-- studies that a person keeps for a legal reason: a hold that begins with "legal:", before that of [hold], if any.
ALTER TABLE instance ADD COLUMN retention TEXT NOT NULL DEFAULT '';
DROP INDEX instance_evictable;
CREATE INDEX instance_evictable ON instance (retention, confirmed_at)
    WHERE state = 'stored' AND open_deliveries = 0 AND hold = '' AND confirmed_at IS NOT NULL;

CREATE TABLE legal_hold (
    id        INTEGER PRIMARY KEY,
    study_uid TEXT NOT NULL,
    reason    TEXT NOT NULL,
    owner     TEXT NOT NULL,            -- who has placed it
    placed_at DOUBLE PRECISION NOT NULL,
    ends_at   DOUBLE PRECISION,         -- NULL: until a person ends it
    ended_at  DOUBLE PRECISION,
    ended_by  TEXT NOT NULL DEFAULT '',
    ended_why TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX legal_hold_active ON legal_hold (study_uid) WHERE ended_at IS NULL;
CREATE INDEX legal_hold_ends ON legal_hold (ends_at) WHERE ended_at IS NULL AND ends_at IS NOT NULL;
