"""The deliveries of one study to one destination, together: that is what a person decides about. Reads only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from edge.model import DeliveryState, Parameter, ReasonCode
from edge.store.database import Transaction
from edge.store.queries import BY_INTEREST, DELIVERY, IN_STATE, public_words, reason_in_words
from edge.store.reasons import reason_of


@dataclass(frozen=True, slots=True)
class Batch:
    """What is held, or what waits, of one study for one destination: that is what a person decides about."""

    study_id: int | None
    study_uid: str
    destination: str
    state: DeliveryState  # the most interesting one
    priority: int  # the most urgent
    count: int
    bytes: int
    queued_at: float  # the oldest
    not_before: float | None
    attempts: int
    reason: str  # of one of them, in words, with what a person wrote
    code: ReasonCode  # where it is held: why, for all of them
    reason_parameters: Mapping[str, Parameter]

    @property
    def public_reason(self) -> str:
        """In words, without what a person wrote."""
        return public_words(self.reason, self.code, self.reason_parameters)


#: A backlog may be long: at most this number of rows is read, in the order in which they are next in turn.
BATCH_ROWS = 5000


def list_batches(
    conn: Transaction, states: Iterable[DeliveryState], destination: str | None, study_id: int | None, limit: int
) -> list[Batch]:
    """What waits, by study and destination; what needs a person first. Bounded by `BATCH_ROWS` and `limit`."""
    rows: dict[tuple[int | None, str, str | None], list[sqlite3.Row]] = {}
    for state in [state for state in BY_INTEREST if state in set(states)]:
        for row in _batch_rows(conn, state, destination, study_id):
            code = row["reason_code"] if state is DeliveryState.HELD else None
            rows.setdefault((row["study_id"], row["destination"], code), []).append(row)
    return [_batch(group) for group in islice(rows.values(), limit)]


def _batch_rows(
    conn: Transaction, state: DeliveryState, destination: str | None, study_id: int | None
) -> Iterator[sqlite3.Row]:
    select = DELIVERY.replace("SELECT d.id,", "SELECT i.study_id, d.id,")
    if study_id is not None:
        where = "WHERE i.study_id = ? AND d.state = ? AND (?3 IS NULL OR d.destination = ?3) ORDER BY d.id LIMIT ?4"
        yield from conn.execute(select + where, (study_id, state.value, destination, BATCH_ROWS))
        return
    names = conn.execute("SELECT DISTINCT destination FROM tally WHERE state = ? AND n > 0", (state.value,)).fetchall()
    for (name,) in names:
        if destination in (None, name):
            yield from conn.execute(f"{select}{IN_STATE[state]} LIMIT {BATCH_ROWS}", (name,))


def _batch(rows: list[sqlite3.Row]) -> Batch:
    first = rows[0]
    reason = reason_of(first)
    return Batch(
        first["study_id"],
        first["study_uid"],
        first["destination"],
        DeliveryState(first["state"]),
        min(row["priority"] for row in rows),
        len(rows),
        sum(row["bytes"] for row in rows),
        min(row["queued_at"] for row in rows),
        first["not_before"],
        max(row["attempts"] for row in rows),
        reason_in_words(first),
        reason.code,
        reason.parameters,
    )


def members(
    conn: Transaction, study_id: int, destination: str, *, held: bool, code: str | None = None
) -> list[tuple[int, int]]:
    """The deliveries of a batch, all of them: (delivery, instance). `code`: only what is held for this."""
    rows = conn.execute(
        "SELECT d.id, d.instance_id FROM instance i JOIN delivery d ON d.instance_id = i.id"
        " WHERE i.study_id = ?1 AND d.destination = ?2 AND d.state IN ('held', 'pending', 'active', 'deferred')"
        " AND (d.state = 'held') = ?3 AND (?4 IS NULL OR d.reason_code = ?4) ORDER BY d.id",
        (study_id, destination, held, code),
    )
    return [(row[0], row[1]) for row in rows]
