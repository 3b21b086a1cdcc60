-- What queries look up beyond 0023 (C-FIND, C-MOVE, C-GET, QIDO-RS).
CREATE INDEX series_uid ON series (series_uid);
CREATE INDEX patient_id_issuer ON patient (patient_id, issuer);
