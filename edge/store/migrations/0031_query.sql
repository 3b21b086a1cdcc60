-- What queries look up beyond 0023 (C-FIND, C-MOVE, C-GET, QIDO-RS). The numbers of studies are in the indexes, so that
-- a month of a large catalog is a few pages, not one for each study.
CREATE INDEX series_uid ON series (series_uid);
CREATE INDEX patient_id_issuer ON patient (patient_id, issuer);
DROP INDEX study_facts_date;
CREATE INDEX study_facts_date ON study_facts (study_date, study_time, study_id);
DROP INDEX study_patient_patient;
CREATE INDEX study_patient_patient ON study_patient (patient_key, study_id);
