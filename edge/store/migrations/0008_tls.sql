-- Why a caller was refused the last time, and when the certificate that it last showed ends.
ALTER TABLE peer ADD COLUMN refused TEXT NOT NULL DEFAULT '';
ALTER TABLE peer ADD COLUMN certificate_expires REAL;
