-- Modality Performed Procedure Steps (PS3.4 annex F): their state, their messages, and who still has to get them.
CREATE TABLE performed_step (
    id                INTEGER PRIMARY KEY,
    sop_instance_uid  TEXT NOT NULL UNIQUE,
    state             TEXT NOT NULL CHECK (state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')),
    digest            BLOB NOT NULL,              -- SHA-256 of what the N-CREATE says
    calling_ae        TEXT NOT NULL,
    called_ae         TEXT NOT NULL,
    address           TEXT NOT NULL,
    modality_name     TEXT NOT NULL,              -- the [modality.NAME] that it was
    station_ae        TEXT NOT NULL,
    modality          TEXT NOT NULL,              -- CT, MR ...
    step_id           TEXT NOT NULL,              -- Performed Procedure Step ID
    study_uid         TEXT NOT NULL,              -- of the first scheduled step
    accession_number  TEXT NOT NULL,
    created_at        DOUBLE PRECISION NOT NULL,
    ended_at          DOUBLE PRECISION,           -- when the final state came
    missing           INTEGER NOT NULL DEFAULT 0, -- named instances that are not here, as last compared
    compare_at        DOUBLE PRECISION,           -- when they are compared next; NULL: no more
    notify            INTEGER NOT NULL DEFAULT 0  -- an Instance Availability Notification is owed once all is proved
);
CREATE INDEX performed_step_study ON performed_step (study_uid);
CREATE INDEX performed_step_compare ON performed_step (compare_at) WHERE compare_at IS NOT NULL;
CREATE INDEX performed_step_notify ON performed_step (id) WHERE notify = 1;

-- Scheduled steps that it performs, as the worklist knows them.
CREATE TABLE performed_scheduled_step (
    step_id           INTEGER NOT NULL REFERENCES performed_step (id),
    study_uid         TEXT NOT NULL,
    scheduled_step_id TEXT NOT NULL,
    accession_number  TEXT NOT NULL,
    PRIMARY KEY (step_id, study_uid, scheduled_step_id)
) WITHOUT ROWID;
CREATE INDEX performed_scheduled_step_of ON performed_scheduled_step (study_uid, scheduled_step_id);

-- Instances that its last message with performed series names.
CREATE TABLE performed_instance (
    step_id           INTEGER NOT NULL REFERENCES performed_step (id),
    sop_instance_uid  TEXT NOT NULL,
    sop_class_uid     TEXT NOT NULL,
    series_uid        TEXT NOT NULL,
    PRIMARY KEY (step_id, sop_instance_uid)
) WITHOUT ROWID;

-- What goes on: each message as it came, and notifications of ours.
CREATE TABLE step_message (
    id                INTEGER PRIMARY KEY,        -- in order
    step_id           INTEGER NOT NULL REFERENCES performed_step (id),
    kind              TEXT NOT NULL CHECK (kind IN ('create', 'set', 'available')),
    is_final          INTEGER NOT NULL,
    record            TEXT NOT NULL UNIQUE,       -- the record of the journal that brought it; ours: what they are for
    sop_instance_uid  TEXT NOT NULL,              -- of the message's own SOP instance
    transfer_syntax   TEXT NOT NULL,
    body              BLOB NOT NULL,
    received_at       DOUBLE PRECISION NOT NULL,
    is_assigned       INTEGER NOT NULL DEFAULT 0  -- its targets have rows
);
CREATE INDEX step_message_step ON step_message (step_id, id);
CREATE INDEX step_message_new ON step_message (id) WHERE is_assigned = 0;

CREATE TABLE step_delivery (
    message_id        INTEGER NOT NULL REFERENCES step_message (id),
    step_id           INTEGER NOT NULL REFERENCES performed_step (id),
    destination       TEXT NOT NULL,
    state             TEXT NOT NULL DEFAULT 'pending'
                      CHECK (state IN ('pending', 'sending', 'held', 'sent', 'cancelled')),
    not_before        DOUBLE PRECISION NOT NULL,
    tries             INTEGER NOT NULL DEFAULT 0, -- that were answered with a failure, in a row
    unanswered        INTEGER NOT NULL DEFAULT 0, -- a try has no answer: the target may have the message
    status            INTEGER,                    -- of the last answer
    last_error        TEXT NOT NULL DEFAULT '',
    peer_text         TEXT NOT NULL DEFAULT '',   -- the target's own words, which may name a patient
    ended_at          DOUBLE PRECISION,
    PRIMARY KEY (message_id, destination)
) WITHOUT ROWID;
CREATE INDEX step_delivery_open ON step_delivery (destination, step_id, message_id) WHERE state NOT IN ('sent', 'cancelled');
