-- A study that no modality reports as a performed step is announced as well ([mpps] ian): it has a step of ours then.
ALTER TABLE performed_step ADD COLUMN is_reported INTEGER NOT NULL DEFAULT 1;
CREATE INDEX performed_instance_of ON performed_instance (sop_instance_uid);
