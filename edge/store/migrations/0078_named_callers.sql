-- What a caller lacks that the configuration names; of one that it does not name there is nothing to say.
UPDATE peer SET refused = '' WHERE refused = 'unknown equipment';
