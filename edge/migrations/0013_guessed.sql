-- Which texts of a study are guesses, because their character set is not certain: bits of edge.model.Guessed.
ALTER TABLE study ADD COLUMN guessed INTEGER NOT NULL DEFAULT 0;
