-- What people at the sites announce: new equipment, storage, requirements (a notice of the heartbeat).
CREATE TABLE announcement (
    id        $ID,
    site      TEXT NOT NULL,
    notice    TEXT NOT NULL,
    kind      TEXT NOT NULL,
    at        DOUBLE PRECISION NOT NULL,
    from_date TEXT NOT NULL,
    expected_bytes_per_month BIGINT,
    said      TEXT NOT NULL,
    UNIQUE (site, notice)
);
