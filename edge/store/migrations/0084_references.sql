-- A patient's update asks for all that is known of it; what is forgotten is looked for in what may refer to it.
CREATE INDEX study_facts_patient ON study_facts (patient_key);
CREATE INDEX hl7_message_behind ON hl7_message (behind_id) WHERE behind_id IS NOT NULL;
CREATE INDEX step_delivery_step ON step_delivery (step_id);
-- Study Dates as ACR-NEMA wrote them, which are few.
CREATE INDEX study_facts_point_date ON study_facts (study_date, study_time, study_id)
    WHERE instr(study_date, '.') = 5;
