-- XXH3-128 of the data set as it was received, which is compared at each sending; NULL: SHA-256 is compared instead.
ALTER TABLE instance ADD COLUMN xxh3 BLOB;
