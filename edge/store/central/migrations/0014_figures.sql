-- The sites' figures of each day, as their last heartbeat of it had them: shares of the week before.
CREATE TABLE figure_day (
    site     TEXT NOT NULL,
    day      BIGINT NOT NULL,      -- days since 1970, UTC
    ae_title TEXT NOT NULL,
    figures  TEXT NOT NULL,        -- JSON, as in the heartbeat
    PRIMARY KEY (site, day, ae_title)
);
