-- What has changed of patients, orders and messages since their copy beside the catalog was last written.
CREATE TABLE identity_change (
    id         INTEGER PRIMARY KEY,
    table_name TEXT NOT NULL,
    key        TEXT NOT NULL                    -- JSON: the values of its primary key
);
CREATE TRIGGER assigning_authority_insert_copied AFTER INSERT ON assigning_authority BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('assigning_authority', json_array(NEW.id));
END;
CREATE TRIGGER assigning_authority_update_copied AFTER UPDATE ON assigning_authority BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('assigning_authority', json_array(NEW.id));
END;
CREATE TRIGGER assigning_authority_delete_copied AFTER DELETE ON assigning_authority BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('assigning_authority', json_array(OLD.id));
END;
CREATE TRIGGER known_patient_insert_copied AFTER INSERT ON known_patient BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('known_patient', json_array(NEW.id));
END;
CREATE TRIGGER known_patient_update_copied AFTER UPDATE ON known_patient BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('known_patient', json_array(NEW.id));
END;
CREATE TRIGGER patient_identifier_insert_copied AFTER INSERT ON patient_identifier BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('patient_identifier', json_array(NEW.id));
END;
CREATE TRIGGER patient_identifier_update_copied AFTER UPDATE ON patient_identifier BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('patient_identifier', json_array(NEW.id));
END;
CREATE TRIGGER patient_merge_insert_copied AFTER INSERT ON patient_merge BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('patient_merge', json_array(NEW.old_id, NEW.new_id));
END;
CREATE TRIGGER patient_merge_update_copied AFTER UPDATE ON patient_merge BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('patient_merge', json_array(NEW.old_id, NEW.new_id));
END;
CREATE TRIGGER imaging_order_insert_copied AFTER INSERT ON imaging_order BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('imaging_order', json_array(NEW.id));
END;
CREATE TRIGGER imaging_order_update_copied AFTER UPDATE ON imaging_order BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('imaging_order', json_array(NEW.id));
END;
CREATE TRIGGER study_assignment_insert_copied AFTER INSERT ON study_assignment BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('study_assignment', json_array(NEW.study_id));
END;
CREATE TRIGGER study_assignment_update_copied AFTER UPDATE ON study_assignment BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('study_assignment', json_array(NEW.study_id));
END;
CREATE TRIGGER patient_event_insert_copied AFTER INSERT ON patient_event BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('patient_event', json_array(NEW.id));
END;
CREATE TRIGGER patient_event_update_copied AFTER UPDATE ON patient_event BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('patient_event', json_array(NEW.id));
END;
CREATE TRIGGER hl7_message_insert_copied AFTER INSERT ON hl7_message WHEN NEW.state = 'parked' OR NEW.notes <> '' BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_message', json_array(NEW.id));
END;
CREATE TRIGGER hl7_message_update_copied AFTER UPDATE ON hl7_message WHEN NEW.state = 'parked' OR OLD.state = 'parked' BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_message', json_array(NEW.id));
END;
CREATE TRIGGER hl7_parked_identifier_insert_copied AFTER INSERT ON hl7_parked_identifier BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_parked_identifier', json_array(NEW.identifier, NEW.message_id));
END;
CREATE TRIGGER hl7_parked_identifier_update_copied AFTER UPDATE ON hl7_parked_identifier BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_parked_identifier', json_array(NEW.identifier, NEW.message_id));
END;
CREATE TRIGGER hl7_parked_identifier_delete_copied AFTER DELETE ON hl7_parked_identifier BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_parked_identifier', json_array(OLD.identifier, OLD.message_id));
END;
CREATE TRIGGER hl7_relay_insert_copied AFTER INSERT ON hl7_relay BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_relay', json_array(NEW.id));
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_message', json_array(NEW.message_id));
END;
CREATE TRIGGER hl7_relay_update_copied AFTER UPDATE ON hl7_relay BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_relay', json_array(NEW.id));
END;
