-- A message that its channel's other end refuses for good waits here for a person, beside the line of the others.
ALTER TABLE message ADD COLUMN parked_at REAL;

DROP INDEX message_channel;
CREATE INDEX message_waiting ON message (channel, id) WHERE parked_at IS NULL;
CREATE INDEX message_parked ON message (channel, id) WHERE parked_at IS NOT NULL;
