"""The catalog: every statement of SQL, and the only package that imports its engine.

`database` has the writer with its group commit and the readers; verbs are functions of a connection inside a
transaction that the caller owns, one file a subject:

- path: `catalog`, `patients`, `headers`, `deliveries`, `leases`, `transitions`, `commitments`, `companions`
- decisions of people: `operator_actions`, `releases`, `destinations`, `undecided`, `quarantine`
- evidence: `ledger`, `ledger_rows`, `ledger_copy`, `access_log`, `folding` and its neighbours
- what people and monitoring read: `queries`, `tallies`, `mismatches`, `peers`, `samples`, `downtimes`, `alert_records`
- messages that wait: `outbox`, `queued_heartbeats`
- small values: `gateway_values`, `clock`
- checks and repairs: `kept_files`, `integrity`, `salvage`, `wal`
- engine: `database`, `sqlite_file`, `file_reader`, `faults`, `wal_index`

Errors leave it as Hindered, StorageUnhealthy, CatalogDamaged and CatalogError of edge.errors (see `faults`).
"""
