-- Earlier studies that are fetched ahead of an appointment ([prefetch.NAME]).
CREATE TABLE prefetch_request (
    id            INTEGER PRIMARY KEY,
    rule          TEXT NOT NULL,               -- the [prefetch.NAME]
    source        TEXT NOT NULL,               -- the destination that is asked
    item_key      TEXT NOT NULL,               -- of the worklist item that it is for
    study_uid     TEXT NOT NULL,               -- of the appointment itself
    patient_id    TEXT NOT NULL,
    patient_name  TEXT NOT NULL,
    birth_date    TEXT NOT NULL,
    starts_at     TEXT NOT NULL,               -- YYYYMMDDHHMMSS, local time
    state         TEXT NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'chosen', 'cancelled')),
    not_before    DOUBLE PRECISION NOT NULL DEFAULT 0,
    tries         INTEGER NOT NULL DEFAULT 0,
    last_error    TEXT NOT NULL DEFAULT '',
    noted_at      DOUBLE PRECISION NOT NULL,
    UNIQUE (rule, item_key)
);
CREATE INDEX prefetch_request_open ON prefetch_request (starts_at) WHERE state = 'wanted';

CREATE TABLE prefetch_study (
    id            INTEGER PRIMARY KEY,
    source        TEXT NOT NULL,
    study_uid     TEXT NOT NULL,
    starts_at     TEXT NOT NULL,               -- of the nearest appointment that wants it
    state         TEXT NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'fetched', 'conflict', 'cancelled')),
    instances     INTEGER NOT NULL,            -- that the archive says it has; 0: it does not say
    fetched       INTEGER NOT NULL DEFAULT 0,  -- by us
    not_before    DOUBLE PRECISION NOT NULL DEFAULT 0,
    tries         INTEGER NOT NULL DEFAULT 0,
    last_error    TEXT NOT NULL DEFAULT '',
    noted_at      DOUBLE PRECISION NOT NULL,
    UNIQUE (source, study_uid)
);
CREATE INDEX prefetch_study_open ON prefetch_study (starts_at) WHERE state = 'wanted';

CREATE TABLE prefetch_wish (                   -- which requests want which study
    request_id    INTEGER NOT NULL REFERENCES prefetch_request (id),
    prefetch_id   INTEGER NOT NULL REFERENCES prefetch_study (id),
    PRIMARY KEY (request_id, prefetch_id)
) WITHOUT ROWID;
CREATE INDEX prefetch_wish_study ON prefetch_wish (prefetch_id);
