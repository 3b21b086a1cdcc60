"""Deliveries: each in the state that the ledger has last; of what is missing, a new one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from edge.errors import Unreadable
from edge.intake.entries import fill_placement
from edge.model import Assignment, DeliveryState, InstanceHeader, InstanceState, Priority
from edge.storage.rebuild.job import Rebuild, chunks
from edge.store import deliveries, patients, restoring
from edge.store.database import CatalogRow, Transaction
from edge.store.identity import Standing
from edge.store.salvage import SalvagedRow
from edge.store.transitions import parameters_json


def restore_deliveries(job: Rebuild) -> None:
    """Enter every delivery of which a row, here or in the ledger, is left."""
    job.copy_rows("commitment", job.salvage.rows("commitment"))
    rows = (row for row in job.salvage.rows("delivery") if row["instance_id"] in job.restored)
    job.report.deliveries = job.copy_rows("delivery", (_correct(job, row) for row in rows))
    for chunk in chunks(sorted(job.history.deliveries)):
        job.db.write(lambda conn, chunk=chunk: _enter_recorded(job, conn, chunk))  # type: ignore[misc]
    job.db.write(restoring.settle_confirmations)


def _correct(job: Rebuild, row: SalvagedRow) -> SalvagedRow:
    """A delivery as the ledger has it, where it has it."""
    row = {**row, "lease_until": None, "transaction_id": None}  # requests for proof are made again
    record = job.history.deliveries.get(row["instance_id"], {}).get(row["destination"])
    if record is None:
        stale = row["state"] in ("active", "sent", "confirmed")
        return {**row, "state": "pending" if stale else row["state"]}
    proved = {"confirmed_at": record.at} if record.state is DeliveryState.CONFIRMED else {}
    sent_at = row["sent_at"] if isinstance(row["sent_at"], float) else record.at
    reason = {
        "reason": record.reason.text,
        "reason_code": record.reason.code.value,
        "reason_parameters": parameters_json(record.reason),
    }
    return {**row, "state": record.state.value, "sent_at": sent_at} | reason | proved


def _enter_recorded(job: Rebuild, conn: Transaction, instances: Iterable[int]) -> None:
    """Enter what is sent, held or cancelled by the ledger, and has no row any more."""
    for instance in instances:
        if instance not in job.restored:
            continue
        for destination, record in job.history.deliveries[instance].items():
            row = {
                "destination": destination,
                "state": record.state.value,
                "reason": record.reason.text,
                "reason_code": record.reason.code.value,
                "reason_parameters": parameters_json(record.reason),
                "sent_at": record.at,
                "confirmed_at": record.at if record.state is DeliveryState.CONFIRMED else None,
                "cancelled_at": record.at if record.state is DeliveryState.CANCELLED else None,
            }
            job.report.deliveries += restoring.insert_delivery(conn, instance, row)


def queue_missing(job: Rebuild) -> None:
    """Deliveries that were decided at the arrival, and of which nothing is left, begin again."""
    with job.db.reading() as conn:
        rows = restoring.list_kept(conn)
        existing: dict[int, set[str]] = defaultdict(set)
        for instance, destination in restoring.list_destinations(conn):
            existing[instance].add(destination)
    for row in rows:
        wanted, has = job.history.destinations.get(row["id"]), existing[row["id"]]
        if not has or set(wanted or ()) - has:
            _queue(job, row, has, wanted)


def _queue(job: Rebuild, row: CatalogRow, has: Collection[str], wanted: Sequence[str] | None) -> None:
    facts: InstanceHeader | None = None
    try:
        facts = job.intake.facts_of(row["path"])
    except (Unreadable, OSError):
        pass  # the scrub finds it
    assigned = job.policy.rules.assign(facts) if facts else ()
    if wanted is not None:
        known = {each.destination: each for each in assigned}
        assigned = tuple(known.get(name, Assignment(name, Priority.ROUTINE, "")) for name in wanted)
    missing = [each for each in assigned if each.destination not in has]
    job.report.queued += job.db.write(lambda conn: _enqueue(job, conn, row, facts, missing, has))


def _enqueue(
    job: Rebuild,
    conn: Transaction,
    row: CatalogRow,
    facts: InstanceHeader | None,
    missing: Sequence[Assignment],
    has: Collection[str],
) -> int:
    if facts is not None and row["series_id"] is None and row["study_id"] is not None:
        fill_placement(conn, row["id"], row["study_id"], facts)
    is_conflict = row["state"] == InstanceState.CONFLICT
    placed = patients.find_placed(conn, row["id"])
    if placed is not None and row["id"] in job.history.mismatched - job.history.released:
        placed = replace(placed, standing=Standing.DIFFERS)  # another image of the patient was accepted, not this
    held_for = job.policy.waits_for(missing, placed, is_conflict=is_conflict)
    if not missing and not has:
        missing = [Assignment(deliveries.UNROUTABLE, Priority.ROUTINE, "")]
    deliveries.enqueue(conn, row["id"], row["kind_id"], row["size"], missing, row["received_at"], held_for)
    return len(missing)
