-- What a message has done is copied, too, so that after a loss of the catalog the same message is not applied again.
DROP TRIGGER hl7_message_insert_copied;
DROP TRIGGER hl7_message_update_copied;
CREATE TRIGGER hl7_message_update_copied AFTER UPDATE OF state ON hl7_message
    WHEN NEW.state IN ('applied', 'unchanged', 'parked', 'discarded') OR OLD.state = 'parked' BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('hl7_message', json_array(NEW.id));
END;
-- The way back of what went out without identity.
CREATE TRIGGER deidentified_instance_insert_copied AFTER INSERT ON deidentified_instance BEGIN
    INSERT INTO identity_change (table_name, key) VALUES ('deidentified_instance', json_array(NEW.sent_uid, NEW.destination));
END;
INSERT INTO identity_change (table_name, key)
    SELECT 'deidentified_instance', json_array(sent_uid, destination) FROM deidentified_instance;
