-- What people of the centre have noted of a site: tags, contact and link of its console. Each change is a row, the last
-- one counts, and comes before the configuration's.
CREATE TABLE site_card (
    id              $ID,
    site            TEXT NOT NULL,
    tags            TEXT NOT NULL,              -- JSON, a list of words
    contact         TEXT NOT NULL,
    link            TEXT NOT NULL,
    changed_at      DOUBLE PRECISION NOT NULL,
    who             TEXT NOT NULL
);
CREATE INDEX site_card_site ON site_card (site, id);
