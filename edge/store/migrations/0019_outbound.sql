-- What breaks associations is known after a restart, too; a peer's own words stand apart from ours.

ALTER TABLE delivery ADD COLUMN breaks INTEGER NOT NULL DEFAULT 0;      -- associations that ended while it was under way
ALTER TABLE delivery ADD COLUMN broke_at DOUBLE PRECISION;              -- when the first of these attempts began
ALTER TABLE delivery ADD COLUMN peer_text TEXT NOT NULL DEFAULT '';     -- Error Comment (0000,0902); may name a patient

-- Suspects wait as deferred and are taken from there, one at a time: pending work is never searched for them.
CREATE INDEX delivery_suspect ON delivery (destination, not_before) WHERE state = 'deferred' AND breaks > 0;

-- Words that were quoted behind a reason, one last time.
UPDATE delivery SET peer_text = rtrim(substr(reason, instr(reason, ': "') + 3), '"'),
                    reason = substr(reason, 1, instr(reason, ': "') - 1)
    WHERE status IS NOT NULL AND reason_code IN ('', 'refused', 'unreachable') AND instr(reason, ': "') > 0;
