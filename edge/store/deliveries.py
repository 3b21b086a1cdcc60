"""One row for each (instance, destination), and what changes its state until it was sent; then edge.store.commitments.

A person does by edge.store.operator_actions. docs/design.md has every transition.

Deliveries are leased, never popped (edge.store.leases). Functions of a connection; the caller owns the transaction, so
that a state and what caused it are committed together.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from edge.model import (
    EMPTY_REASON,
    Assignment,
    AttemptResult,
    ContextKey,
    DeliveryState,
    Lease,
    Outcome,
    Reason,
    ReasonCode,
)
from edge.store import ledger
from edge.store.database import Transaction
from edge.store.leases import IS_CURRENT, give_back, key_of
from edge.store.ledger_text import reason_payload
from edge.store.transitions import enqueue_statement, parameters_json, reason_values, update_statement

log = logging.getLogger(__name__)

#: `destination` of the row that holds what no route matched.
UNROUTABLE = ""


# -- the custody ledger ------------------------------------------------------------------------------------------------


def record_by_study(
    conn: Transaction,
    at: float,
    event: str,
    who: str,
    found: Iterable[tuple[int | None, int]],
    destination: str,
    payload: ledger.Payload | None = None,
) -> None:
    """One ledger row for each study. `found`: (study, instance)."""
    for study, instances in _group(found).items():
        ledger.append(conn, at, event, who, instances, study_id=study, destination=destination, payload=payload)


def _group(pairs: Iterable[tuple[Any, int]]) -> dict[Any, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for key, instance in pairs:
        groups[key].append(instance)
    return groups


# -- intake -----------------------------------------------------------------------------------------------------------

_ENQUEUE = {state: enqueue_statement(state) for state in (DeliveryState.PENDING, DeliveryState.HELD)}


def enqueue(
    conn: Transaction,
    instance: int,
    kind_id: int,
    size: int,
    assignments: Sequence[Assignment],
    now: float,
    held_for: Reason = EMPTY_REASON,
) -> None:
    """One row for each destination; with a reason, each waits for a person.

    The rows of an instance that is received again begin again.
    """
    if not assignments:
        return
    sql = _ENQUEUE[DeliveryState.HELD if held_for.code else DeliveryState.PENDING]
    reason = reason_values(held_for)
    conn.executemany(
        sql,
        [
            {
                "instance_id": instance,
                "destination": each.destination,
                "kind_id": kind_id,
                "bytes": size,
                "priority": int(each.priority),
                "route": each.route,
                "queued_at": now,
                **reason,
            }
            for each in assignments
        ],
    )


def remove_unroutable(conn: Transaction, instance: int) -> None:
    """Remove the row of an instance that no route matched: there is one now."""
    conn.execute("DELETE FROM delivery WHERE instance_id = ? AND destination = ''", (instance,))


# -- queue ------------------------------------------------------------------------------------------------------------


def queued_contexts(conn: Transaction, destination: str) -> list[ContextKey]:
    """The presentation contexts that a destination's queue needs, the most urgent first."""
    rows = conn.execute(
        "SELECT k.sop_class_uid, k.transfer_syntax_uid FROM tally t JOIN kind k ON k.id = t.kind_id"
        " WHERE t.destination = ? AND t.state IN ('pending', 'active', 'deferred') AND t.n > 0"
        " GROUP BY t.kind_id ORDER BY min(t.priority), sum(t.n) DESC",
        (destination,),
    )
    return [ContextKey(row[0], row[1]) for row in rows]


# -- what became of them -----------------------------------------------------------------------------------------------

_ENDED = "status = :status, attempts = attempts + 1"
_SENT = f"{_ENDED}, sent_at = :now, transaction_id = NULL"
_FAILED = f"{_ENDED}, breaks = breaks + :broke, broke_at = coalesce(broke_at, :broke_at)"
_RECORD = {
    state: update_statement("record", state, also, IS_CURRENT)
    for state, also in (
        (DeliveryState.SENT, _SENT),
        (DeliveryState.CONFIRMED, f"{_SENT}, confirmed_at = :now"),
        (DeliveryState.DEFERRED, _FAILED),
        (DeliveryState.HELD, _FAILED),
        (DeliveryState.CANCELLED, f"{_ENDED}, cancelled_at = :now"),
    )
}
_ENDS_IN = {
    Outcome.SENT: DeliveryState.SENT,
    Outcome.DEFER: DeliveryState.DEFERRED,
    Outcome.HOLD: DeliveryState.HELD,
    Outcome.SKIP: DeliveryState.CANCELLED,
}
_EVENTS = {Outcome.SENT: ledger.SENT, Outcome.HOLD: ledger.HELD, Outcome.SKIP: ledger.CANCELLED}


def record_attempts(
    conn: Transaction, results: Sequence[AttemptResult], now: float, *, proved_by_status: bool
) -> list[AttemptResult]:
    """End attempts. Returns those that counted: an attempt whose lease has lapsed or was superseded changes nothing."""
    counted = []
    for each in results:
        state = _ENDS_IN[each.outcome]
        if proved_by_status and state is DeliveryState.SENT:
            state = DeliveryState.CONFIRMED
        values = reason_values(each.reason, each.peer_text) | key_of(each.lease)
        values |= {
            "now": now,
            "status": each.status,
            "broke": each.broke_at is not None,
            "broke_at": each.broke_at,
            "not_before": each.retry_at,
        }
        if conn.execute(_RECORD[state], values).rowcount:
            counted.append(each)
        else:
            log.warning(
                "instance %d for %s: an attempt ended after its lease (epoch %d), and changes nothing",
                each.lease.instance_id,
                each.lease.destination,
                each.lease.epoch,
            )
    _record(conn, counted, now, proved_by_status)
    return counted


def _record(conn: Transaction, results: Sequence[AttemptResult], now: float, proved_by_status: bool) -> None:
    """One ledger row for each (destination, event, reason, study); deferrals are not custody and leave none."""
    groups: dict[tuple[str, Outcome, ReasonCode, str], list[AttemptResult]] = defaultdict(list)
    for each in results:
        if each.outcome is not Outcome.DEFER:
            code, parameters = each.reason.code, parameters_json(each.reason)
            groups[each.lease.destination, each.outcome, code, parameters].append(each)
    for (destination, outcome, _, _), alike in groups.items():
        found = [(each.lease.study_id, each.lease.instance_id) for each in alike]
        record_by_study(conn, now, _EVENTS[outcome], ledger.EDGE, found, destination, reason_payload(alike[0].reason))
        if outcome is Outcome.SENT and proved_by_status:
            proof = {"method": ledger.BY_STATUS}
            record_by_study(conn, now, ledger.CONFIRMED, destination, found, destination, proof)


def record_lost(conn: Transaction, each: Lease, now: float, reason: Reason) -> None:
    """Append the ledger's row for an instance whose file is not what was received."""
    found = [(each.study_id, each.instance_id)]
    record_by_study(conn, now, ledger.LOST, ledger.EDGE, found, "", reason_payload(reason))


def anything_due(conn: Transaction, now: float) -> bool:
    """Is there work for `requeue_due`?"""
    row = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM delivery WHERE state = 'deferred' AND not_before <= :now AND breaks = 0)"
        " OR EXISTS (SELECT 1 FROM delivery WHERE state = 'active' AND lease_until <= :now)",
        {"now": now},
    ).fetchone()
    return bool(row[0])


_STUDY_IS_MISSING = update_statement(
    "study is missing", DeliveryState.HELD, where="not_before <= :now AND destination = ''"
)
_REQUEUE_DUE = update_statement("requeue due", DeliveryState.PENDING, where="not_before <= :now AND breaks = 0")
_EXPIRE = give_back("expire", "lease_until <= :now")


def requeue_due(conn: Transaction, now: float) -> list[str]:
    """Deferred deliveries that are due, and those whose lease lapsed, of any node, are pending again.

    Suspects stay deferred: `lease_suspect` takes them, one at a time. Returns the destinations concerned.
    """
    awaited = reason_values(Reason(ReasonCode.UNROUTABLE, {"awaited": "study"}))
    conn.execute(_STUDY_IS_MISSING, {"now": now, **awaited})
    lapsed = {"now": now, **reason_values(Reason(ReasonCode.LEASE_LAPSED))}
    found = conn.execute(_REQUEUE_DUE + " RETURNING destination", {"now": now}).fetchall()
    for sql in _EXPIRE:
        found += conn.execute(sql + " RETURNING destination", lapsed).fetchall()
    return sorted({row[0] for row in found})


def holders(conn: Transaction, instance: int) -> list[str]:
    """The destinations that have an instance with the bytes that were received, those that have proved it first."""
    rows = conn.execute(
        "SELECT destination FROM delivery WHERE instance_id = ? AND state IN ('sent', 'confirmed')"
        " AND id NOT IN (SELECT delivery_id FROM sent_copy WHERE rules <> '')"
        " ORDER BY state <> 'confirmed', confirmed_at",
        (instance,),
    )
    return [row[0] for row in rows]


_REQUEUE_REPAIRED = update_statement(
    "requeue repaired", DeliveryState.PENDING, where="instance_id = :instance AND reason_code = 'damaged'"
)


def requeue_repaired(conn: Transaction, instance: int) -> list[str]:
    """What a sender held because an instance's file was damaged is pending again. Returns the destinations."""
    rows = conn.execute(_REQUEUE_REPAIRED + " RETURNING destination", {"instance": instance})
    return [row[0] for row in rows]


_FIND_MISMATCH = update_statement(
    "find mismatch",
    DeliveryState.HELD,
    where="instance_id = :instance AND destination <> '' AND (:stat OR NOT EXISTS"
    " (SELECT 1 FROM delivery AS urgent WHERE urgent.instance_id = :instance AND urgent.priority = 0))",
)


def hold_mismatch(conn: Transaction, instance: int, reason: Reason, *, stat: bool) -> bool:
    """Hold what is still to go of an instance that turns out to be of another patient, for a person.

    `stat`: so do stat ones. True when all of it is held, and nothing has gone.
    """
    conn.execute(_FIND_MISMATCH, {"instance": instance, "stat": stat, **reason_values(reason)})
    left = "SELECT 1 FROM delivery WHERE instance_id = ? AND (state <> 'held' OR reason_code <> 'mismatch')"
    return conn.execute(left, (instance,)).fetchone() is None


_RESOLVE_MISMATCH = update_statement(
    "resolve mismatch", DeliveryState.PENDING, where="instance_id = :instance AND reason_code = 'mismatch'"
)


def resolve_mismatch(conn: Transaction, instance: int) -> list[str]:
    """What was held because the patient differed is pending again: it does not differ. Returns the destinations."""
    rows = conn.execute(_RESOLVE_MISMATCH + " RETURNING destination", {"instance": instance})
    return [row[0] for row in rows if row[0]]
