-- The sites whose Edge an instance has passed (edge/network/sites.py): it is not sent back to where it has been.
ALTER TABLE instance ADD COLUMN passed TEXT NOT NULL DEFAULT '';
