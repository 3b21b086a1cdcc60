-- Tables and columns by the names of docs/glossary.md.
ALTER TABLE beat RENAME TO heartbeat;
ALTER TABLE office RENAME TO centre_state;
ALTER TABLE history_minute RENAME COLUMN beats TO heartbeats;
ALTER TABLE history_hour RENAME COLUMN beats TO heartbeats;
ALTER TABLE history_day RENAME COLUMN beats TO heartbeats;
ALTER TABLE incident RENAME COLUMN told_open_at TO opened_notice_at;
ALTER TABLE incident RENAME COLUMN told_close_at TO closed_notice_at;
ALTER TABLE outage RENAME COLUMN told_from TO reported_from;
ALTER TABLE outage RENAME COLUMN told_to TO reported_to;
