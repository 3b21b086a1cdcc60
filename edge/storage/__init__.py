"""Maintenance of stored images: they stay whole, and make room for new ones.

retention, reserve   room on the disk: what is proved elsewhere goes first; room kept for the gateway itself
scrub/, repair       every file is read again once a week; a damaged one is fetched from where it was sent
verify, rebuild/     `edge verify` and `edge recover`
restore              `edge restore`: bring images back from a copy
release              a person releases or discards what was held
ageing, backfill     old studies go to yearly files; headers of what is here are read
recovery             after a start: files without rows, rows without files
"""
