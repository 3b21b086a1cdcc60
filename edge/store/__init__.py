"""The catalog: every statement of SQL, and the only package that imports its engine.

`database` has the writer with its group commit and the readers; verbs are functions of a connection inside a
transaction that the caller owns, one file a subject:

- the path of an image: `catalog`, `patients`, `headers`, `header_progress`, `placement_memory`, `companions`,
  `assignments`, `deliveries`, `transitions`, `leases`, `sent_copies`, `commitments`, `eviction`, `retention_rules`
- other records of the journal: `journal_progress`, `commitment_entry`, `commitment_requests`, `performed_step_entry`,
  `performed_steps`, `step_deliveries`, `step_images`, `hl7_messages`, `hl7_text`, `relays`
- whose an image is: `identity`, `known_patients`, `patient_identifiers`, `resolved_patients`, `patient_search`,
  `study_patients`, `todays_facts`, `order_entry`, `orders`, `identity_checks`, `identity_findings`, `returned`,
  `outdated_copies`
- what is fetched, served, imported: `prefetch`, `worklist`, `queried`, `held`, `rejection_notes`, `rejection_order`,
  `imports`, `copies`, `web_clients`, `callers`, `asked`
- decisions of people: `operator_actions`, `releases`, `sending`, `destinations`, `undecided`, `legal_holds`,
  `quarantine`
- evidence: `ledger`, `ledger_rows`, `ledger_text` (and its decoder of old rows), `ledger_copy`, `identity_copy`,
  `audit_trail`, `access_log`
- yearly files: `folding`, `unfolding`, `folded_study`, `folded_files`, `folded_ledger`
- what people and monitoring read: `queries`, `studies`, `series_list`, `waiting`, `exception_list`, `tallies`,
  `figures`, `identity_figures`, `mismatches`, `peers`, `equipment`, `samples`, `downtimes`, `drills`,
  `alert_records`, `reasons`
- messages that wait, accounts, small values: `outbox`, `queued_heartbeats`, `accounts`, `configuration_versions`,
  `gateway_values`, `clock`
- checks and repairs: `kept_files`, `integrity`, `salvage`, `wal`, `restoring`, `restored`, `kept_catalog`
- engine: `database`, `transaction`, `read_only`, `sqlite_file`, `file_reader`, `faults`, `wal_index`; the centre's:
  `engine`, `central/`

Errors leave it as Hindered, StorageUnhealthy, CatalogDamaged and CatalogError of edge.errors (see `faults`).
"""
