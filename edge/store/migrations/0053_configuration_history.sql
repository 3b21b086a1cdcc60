-- Each state of the configuration's files that the gateway has used, with who changed them and why.
CREATE TABLE configuration_version (
    id              INTEGER PRIMARY KEY,
    at              DOUBLE PRECISION NOT NULL,
    who             TEXT NOT NULL,
    reason          TEXT NOT NULL,
    digest          TEXT NOT NULL,
    files           TEXT NOT NULL               -- JSON: {file name: text}
);
