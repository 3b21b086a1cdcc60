-- How far the journal is applied (edge/journal): of each segment's generation, so many records have their rows here.
CREATE TABLE journal_applied (
    generation BIGINT PRIMARY KEY,
    records    BIGINT NOT NULL
);
