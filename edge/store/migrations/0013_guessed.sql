-- Studies with texts that are guesses, because their character set is not certain: which, as bits of edge.model.Guessed.
CREATE TABLE study_guess (
    study_id INTEGER PRIMARY KEY REFERENCES study (id),
    fields   INTEGER NOT NULL
);
