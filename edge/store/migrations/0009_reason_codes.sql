-- A delivery's reason is a code; its sentence is for people alone. Deliveries may be cancelled, instances discarded.

ALTER TABLE delivery ADD COLUMN reason_code TEXT NOT NULL DEFAULT '';

-- Constraints alone change, nothing that is stored: https://www.sqlite.org/lang_altertable.html, section 7.
PRAGMA writable_schema = ON;
UPDATE sqlite_master SET sql = replace(sql, '''held'', ''sent'', ''confirmed''', '''held'', ''sent'', ''confirmed'', ''cancelled''')
    WHERE type = 'table' AND name = 'delivery';
UPDATE sqlite_master SET sql = replace(sql, '''evicted'', ''lost''', '''evicted'', ''lost'', ''discarded''')
    WHERE type = 'table' AND name = 'instance';
PRAGMA writable_schema = RESET;

-- What was held before: its sentence is read one last time.
UPDATE delivery SET reason_code = CASE
    WHEN destination = '' THEN 'unroutable'
    WHEN reason LIKE 'conflict:%' THEN 'conflict'
    WHEN reason LIKE 'held by %' THEN 'person'
    WHEN reason LIKE 'the spooled file%' THEN 'damaged'
    WHEN reason LIKE 'the archive does not commit%' THEN 'not-committed'
    WHEN reason LIKE 'the destination takes no %' OR reason LIKE 'the destination refuses %' THEN 'no-context'
    ELSE 'refused' END
    WHERE state = 'held';
UPDATE delivery SET reason_code = 'unreachable' WHERE state = 'deferred';

DROP INDEX delivery_held;
CREATE INDEX delivery_held ON delivery (destination, reason_code, id) WHERE state = 'held';

-- A cancelled delivery is closed like a confirmed one: what is owed to nobody may be evicted in time.
ALTER TABLE delivery ADD COLUMN cancelled_at DOUBLE PRECISION;
DROP TRIGGER delivery_born;
CREATE TRIGGER delivery_born AFTER INSERT ON delivery BEGIN
    INSERT INTO tally VALUES (NEW.destination, NEW.state, NEW.kind_id, NEW.priority, 1, NEW.bytes)
        ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
    UPDATE instance SET open_deliveries = open_deliveries + 1, confirmed_at = NULL
        WHERE id = NEW.instance_id AND NEW.state NOT IN ('confirmed', 'cancelled');
END;
DROP TRIGGER delivery_gone;
CREATE TRIGGER delivery_gone AFTER DELETE ON delivery BEGIN
    UPDATE tally SET n = n - 1, bytes = bytes - OLD.bytes
        WHERE destination = OLD.destination AND state = OLD.state AND kind_id = OLD.kind_id AND priority = OLD.priority;
    UPDATE instance SET open_deliveries = open_deliveries - 1
        WHERE id = OLD.instance_id AND OLD.state NOT IN ('confirmed', 'cancelled');
END;
DROP TRIGGER delivery_confirmed;
CREATE TRIGGER delivery_closed AFTER UPDATE OF state ON delivery
    WHEN OLD.state NOT IN ('confirmed', 'cancelled') AND NEW.state IN ('confirmed', 'cancelled') BEGIN
    UPDATE instance SET open_deliveries = open_deliveries - 1,
                        confirmed_at = CASE WHEN open_deliveries = 1
                                            THEN coalesce(NEW.confirmed_at, NEW.cancelled_at) END
        WHERE id = NEW.instance_id;
END;
DROP TRIGGER delivery_reopened;
CREATE TRIGGER delivery_reopened AFTER UPDATE OF state ON delivery
    WHEN OLD.state IN ('confirmed', 'cancelled') AND NEW.state NOT IN ('confirmed', 'cancelled') BEGIN
    UPDATE instance SET open_deliveries = open_deliveries + 1, confirmed_at = NULL WHERE id = NEW.instance_id;
END;
