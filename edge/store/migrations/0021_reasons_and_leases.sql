-- A reason is a code with typed parameters (JSON; '': none), of which words are made where they are shown. The column
-- `reason` keeps the words of rows of before; new ones leave it empty.
ALTER TABLE delivery ADD COLUMN reason_parameters TEXT NOT NULL DEFAULT '';

-- A lease has an owner, and a number that only grows: what a superseded lease reports changes nothing.
ALTER TABLE delivery ADD COLUMN lease_owner TEXT NOT NULL DEFAULT '';   -- the node that has leased it last
ALTER TABLE delivery ADD COLUMN lease_epoch BIGINT NOT NULL DEFAULT 0;
