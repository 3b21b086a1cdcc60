"""What is asked of the images that are kept: matching of keys, and the answers to queries.

`matching` and `moments` are pure, and serve every door alike: C-FIND, worklist, QIDO-RS.
"""
