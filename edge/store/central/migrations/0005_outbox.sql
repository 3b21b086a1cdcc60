-- The outbox of a site (edge/store/outbox.py): what a channel's other end refuses for good is parked, not dropped; and
-- when the next try is due is known to the courier alone.
ALTER TABLE message ADD COLUMN parked_at DOUBLE PRECISION;
ALTER TABLE message DROP COLUMN next_try;
DROP INDEX message_channel;
CREATE INDEX message_waiting ON message (channel, id) WHERE parked_at IS NULL;
CREATE INDEX message_parked ON message (channel, id) WHERE parked_at IS NOT NULL;
