-- Does a compact header have all that stands before the pixel data? Then metadata is answered without the file. Those of
-- before are not known to; their files are read.
ALTER TABLE instance_header ADD COLUMN is_whole BIGINT NOT NULL DEFAULT 0;
