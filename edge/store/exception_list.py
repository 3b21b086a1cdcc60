"""Everything that needs a decision, and what is missing: one short row an instance, for a list of all. Reads only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.model import InstanceState, ReasonCode
from edge.store import mismatches, undecided
from edge.store.database import Transaction
from edge.store.patients import JOIN
from edge.store.study_patients import split_differences

#: Instances of one kind that a list reads at most.
MOST_LISTED = 5000
_STATES = (InstanceState.LOST, InstanceState.CONFLICT, InstanceState.QUARANTINED)
#: In the order in which they need a person; an instance of two kinds is listed as the first.
EXCEPTION_KINDS = (
    InstanceState.LOST.value,
    InstanceState.CONFLICT.value,
    ReasonCode.MISMATCH.value,
    ReasonCode.UNROUTABLE.value,
    InstanceState.QUARANTINED.value,
    InstanceState.DISCARDED.value,
)
_IN_STATE = """
SELECT id FROM instance WHERE state = ? AND state IN ('conflict', 'quarantined', 'lost')
ORDER BY received_at DESC LIMIT ?
"""
_ROWS = """
SELECT i.id, i.received_at, i.calling_ae, i.study_id, coalesce(s.patient_name, '') AS patient_name
FROM json_each(?) AS wanted JOIN instance i ON i.id = wanted.value LEFT JOIN study s ON s.id = i.study_id
"""


@dataclass(frozen=True, slots=True)
class ExceptionRow:
    """One instance of the list."""

    instance_id: int
    kind: str  # of EXCEPTION_KINDS
    received_at: float
    calling_ae: str
    study_id: int | None
    patient_name: str  # of the study as it came first


def list_exception_rows(conn: Transaction, study_id: int | None = None) -> Mapping[str, list[ExceptionRow]]:
    """List what needs a decision by kind, each in the order of arrival."""
    return {kind: _read_rows(conn, kind, _ids_of(conn, kind), study_id) for kind in EXCEPTION_KINDS}


def _ids_of(conn: Transaction, kind: str) -> Sequence[int]:
    if kind in {each.value for each in _STATES}:
        return [row[0] for row in conn.execute(_IN_STATE, (kind, MOST_LISTED))]
    if kind == ReasonCode.MISMATCH.value:
        return mismatches.list_mismatch_ids(conn, MOST_LISTED)
    if kind == ReasonCode.UNROUTABLE.value:
        return undecided.list_held_ids(conn, ReasonCode.UNROUTABLE, MOST_LISTED)
    return undecided.list_discarded_ids(conn, MOST_LISTED)


def _read_rows(conn: Transaction, kind: str, ids: Sequence[int], study_id: int | None) -> list[ExceptionRow]:
    rows = conn.execute(_ROWS, (json.dumps(list(ids)),))
    found = (ExceptionRow(row[0], kind, *tuple(row)[1:]) for row in rows)
    return sorted(
        (each for each in found if study_id in (None, each.study_id)),
        key=lambda each: (each.received_at, each.instance_id),
    )


def differences_of(conn: Transaction, ids: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Return {instance: in what its patient differs from that of its study}."""
    rows = conn.execute(
        f"SELECT i.id, w.differs_in FROM json_each(?) AS wanted JOIN instance i ON i.id = wanted.value {JOIN}",
        (json.dumps(list(ids)),),
    )
    return {row[0]: split_differences(row[1] or "") for row in rows}
