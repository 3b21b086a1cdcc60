-- Planned work at a site: planned here by a person, or reported by the site itself. What fails meanwhile is planned.
CREATE TABLE maintenance (
    id              $ID,
    site            TEXT NOT NULL,
    name            TEXT NOT NULL,              -- of the site's own table; empty: planned here
    begins_at       DOUBLE PRECISION NOT NULL,
    ends_at         DOUBLE PRECISION NOT NULL,
    reason          TEXT NOT NULL,
    who             TEXT NOT NULL,              -- empty: the site
    UNIQUE (site, name, begins_at)
);
CREATE INDEX maintenance_end ON maintenance (ends_at);
