"""Queries of the images that are kept: C-FIND, C-MOVE, C-GET, worklist and QIDO-RS.

A process of its own answers (`process`, `server`); doors ask it (`asking`). `answering` merges what the catalog has,
what the journal still holds (`unapplied`) and what archives answer (`archive`). `locating` finds what a retrieval
wants, `fetching` gets what only an archive has. `matching`, `moments`, `levels`, `entities` and `merging` are pure, and
serve every door alike.
"""
