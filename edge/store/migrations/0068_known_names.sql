-- The names of today as queries match them (edge.text.fold_name); NULL: not known yet, so it may match any.
ALTER TABLE known_patient ADD COLUMN folded_name TEXT;
CREATE INDEX known_patient_folded_name ON known_patient (folded_name);
