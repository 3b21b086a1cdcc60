-- What a row of the ledger says, in typed values. NULL: a row of before, whose hash does not cover it (edge.store.ledger).

ALTER TABLE ledger ADD COLUMN payload TEXT;  -- canonical JSON object

-- Another system's words, quoted behind an error, one last time.
UPDATE destination SET last_error = substr(last_error, 1, instr(last_error, ': "') - 1) WHERE instr(last_error, ': "') > 0;
