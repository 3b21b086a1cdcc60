"""A person releases or discards an instance: a conflict, a mismatch, what has no route, what is in quarantine.

`release` applies the routes of today. Named by its number, an instance goes where they say; one of many is sent only
where nothing but the route was missing: a conflict among them waits on, as a conflict. What leaves quarantine enters
again like an arrival, under the UIDs of its data set, and is asked all that an arrival is asked; its bytes stay as they
are. `edge.store.operator_actions` has the decisions about single deliveries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from edge.dicom import header
from edge.dicom.uids import usable_uid
from edge.errors import Unreadable
from edge.intake import Intake
from edge.intake.policy import Policy
from edge.model import (
    EMPTY_REASON,
    Assignment,
    ContextKey,
    DeliveryState,
    InstanceHeader,
    InstanceState,
    Reason,
    ReasonCode,
)
from edge.spool import HASH_CHUNK, Spool, Stored
from edge.store import companions, deliveries, identity_checks, kept_files, ledger, operator_actions, patients, releases
from edge.store.catalog import Added, Arrival
from edge.store.database import CatalogRow, Store, Transaction
from edge.store.kept_files import FileRow
from edge.store.patients import Placement

T = TypeVar("T")

#: Held for one of these, a delivery is moved where its instance is released by its number; a person's hold is not.
_BY_NUMBER = frozenset({ReasonCode.UNROUTABLE, ReasonCode.CONFLICT, ReasonCode.MISMATCH})
_AMONG_MANY = frozenset({ReasonCode.UNROUTABLE})
#: Instances in these states have no file any more.
_GONE = {InstanceState.LOST: "lost", InstanceState.EVICTED: "evicted"}


NO_ROUTE = "no route matches it: add one, `edge check`, reload, then again"


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of one instance; `text` says it to the person, or why nothing was done."""

    instance_id: int
    done: bool
    text: str


class Releaser:
    """See the module's promise. Thread-safe."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        intake: Intake,
        queued: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        """`queued` is called after the commit with the destinations that have new work."""
        self._db, self._spool, self._intake, self._queued = db, spool, intake, queued

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Do what belongs to a decision, in one transaction."""
        return self._db.write(work)

    # -- what a person may ask ----------------------------------------------------------------------------------------

    def release(self, instance: int, who: str, why: str, *, named: bool) -> Decided:
        """Let an instance go where today's routes say. `named`: the person means this very one.

        Raises StorageFull or StorageUnhealthy.
        """
        with self._db.reading() as conn:
            kept = kept_files.file_row(conn, instance)
        if kept is None:
            return Decided(instance, False, "there is no such instance")
        if kept.state in _GONE:
            return Decided(instance, False, f"it is {_GONE[kept.state]}: there is no file to send")
        if kept.is_deleted:
            return Decided(instance, False, f"its file is deleted: {kept.reason or 'it was discarded'}")
        try:
            if not kept.is_owed:
                return self._admit(kept, who, why)
            return self._send(kept, who, why, named)
        except (Unreadable, OSError) as error:
            return Decided(instance, False, _only_export(kept, str(error)))

    def discard(self, instance: int, who: str, why: str) -> Decided:
        """Decide that an instance goes nowhere."""
        reason = self._db.write(lambda conn: operator_actions.discard_instance(conn, instance, time.time(), who, why))
        return Decided(instance, not reason, reason or "discarded")

    # -- what is read and trusted -------------------------------------------------------------------------------------

    def _send(self, kept: FileRow, who: str, why: str, named: bool) -> Decided:
        policy = self._intake.policy
        decision = policy.rules.decide(self._intake.facts_of(kept.path))
        assigned = decision.assignments
        release = partial(_release, kept=kept, assigned=assigned, named=named, policy=policy, who=who, why=why)

        def work(conn: Transaction) -> tuple[Decided, list[str]]:
            now = time.time()
            decided = release(conn, now=now) if decision.assignments else Decided(kept.instance_id, False, NO_ROUTE)
            if kept.study_id is None or not (decided.done or not decision.assignments):
                return decided, []
            companions.mark_companion(conn, kept.instance_id, decision.companion)
            more = companions.catch_up(conn, kept.study_id, policy.routes_without_companions, now)
            if more and not decided.done:
                decided = Decided(kept.instance_id, True, f"it goes where its study's images go: {', '.join(more)}")
            return decided, more

        decided, more = self._db.write(work)
        self._queued([*(each.destination for each in decision.assignments), *more])
        return decided

    # -- quarantine ---------------------------------------------------------------------------------------------------

    def _admit(self, kept: FileRow, who: str, why: str) -> Decided:
        """Out of quarantine: a new file with the UIDs of the data set in its head, which enters like an arrival."""
        facts = self._facts_of_data_set(kept)
        stored = self._copy(kept, facts)

        def also(conn: Transaction, added: Added) -> None:
            now, target = time.time(), added.instance_id
            operator_actions.note_released(conn, kept.instance_id, target, now)
            payload = {"instance": target, "reason": why}
            ids = [kept.instance_id]
            ledger.append(conn, now, ledger.ADMITTED, who, ids, study_id=added.study_id, payload=payload)

        added = self._intake.enter(stored, facts, also)
        self._spool.remove(kept.path)
        with self._db.reading() as conn:
            return Decided(kept.instance_id, True, _describe_admission(conn, added))

    def _facts_of_data_set(self, kept: FileRow) -> InstanceHeader:
        """Its facts by its own header alone. Raises Unreadable."""
        policy: Policy = self._intake.policy
        syntax = kept.context_key.transfer_syntax_uid
        with self._spool.path_of(kept.path).open("rb") as file:

            def read(at: int, size: int) -> bytes:
                file.seek(kept.dataset_offset + at)
                return file.read(size)

            length = kept.size - kept.dataset_offset
            found = header.scan(read, length, syntax, frozenset(policy.header.wanted), policy.header.nested)
        attributes = {policy.header.wanted[tag]: values for tag, values in found.items()}
        facts = InstanceHeader("", "", syntax, kept.origin, attributes)
        sop_class, uid = facts.first("SOPClassUID"), facts.first("SOPInstanceUID")
        if not (usable_uid(sop_class) and usable_uid(uid)):
            raise Unreadable("its data set has no SOP Class UID and SOP Instance UID to send it by")
        return InstanceHeader(sop_class, uid, syntax, kept.origin, attributes)

    def _copy(self, kept: FileRow, facts: InstanceHeader) -> Stored:
        context_key = ContextKey(facts.sop_class_uid, facts.transfer_syntax_uid)
        partial_ = self._spool.begin(context_key, facts.sop_instance_uid, kept.origin)
        try:
            with self._spool.path_of(kept.path).open("rb") as file:
                file.seek(kept.dataset_offset)
                while chunk := file.read(HASH_CHUNK):
                    partial_.write([memoryview(chunk)])
            stored = partial_.finish()
            if stored.sha256 != kept.sha256:
                raise Unreadable("its file is not what was received: `edge verify` says more")
        except BaseException:
            partial_.discard()
            raise
        return stored


def _release(
    conn: Transaction,
    *,
    kept: FileRow,
    assigned: Sequence[Assignment],
    named: bool,
    policy: Policy,
    who: str,
    why: str,
    now: float,
) -> Decided:
    """Send what waits for this decision to the destinations of today, in one transaction."""
    instance = kept.instance_id
    rows = releases.deliveries_of(conn, instance)
    waiting = {row["destination"]: row for row in rows if _may_move(row, kept, named)}
    if not waiting:
        return Decided(instance, False, _nothing_to_release(rows, kept, named))
    if kept.state is InstanceState.DISCARDED:
        releases.end_discard(conn, instance)
    deliveries.remove_unroutable(conn, instance)
    placed = patients.find_placed(conn, instance)
    if named and placed is not None:
        patients.accept(conn, placed)
    held_for = EMPTY_REASON if named else _waits_for(conn, kept, assigned, placed, policy)
    held = held_for is not EMPTY_REASON
    known = {row["destination"] for row in rows}
    to = [each for each in assigned if each.destination in waiting or each.destination not in known]
    deliveries.enqueue(conn, instance, kept.kind_id, kept.size, to, now, held_for)
    if named:
        operator_actions.close_conflict(conn, instance)
    names = [each.destination for each in to]
    payload = {"destinations": names, "reason": why} if names else {"reason": why}
    event = ledger.RETRIED if held else ledger.RELEASED
    ledger.append(conn, now, event, who, [instance], study_id=kept.study_id, payload=payload)
    if held:
        what = "a conflict" if held_for.code is ReasonCode.CONFLICT else "of another patient than its study"
        return Decided(instance, False, f"it has a route now, but is {what}: `edge instances show {instance}`")
    left = [name for name in waiting if name and name not in {each.destination for each in assigned}]
    return Decided(instance, True, f"released to {', '.join(names) or 'nowhere'}{_left(left, waiting)}")


def _waits_for(
    conn: Transaction, kept: FileRow, assigned: Sequence[Assignment], placed: Placement | None, policy: Policy
) -> Reason:
    """Why it must wait for a person's decision about this instance, as on arrival; EMPTY_REASON: it need not."""
    check = identity_checks.find_check(conn, placed.series_id) if placed is not None else None
    return policy.waits_for(assigned, placed, check, is_conflict=kept.state is InstanceState.CONFLICT)


def _may_move(row: CatalogRow, kept: FileRow, named: bool) -> bool:
    if row["state"] == DeliveryState.CANCELLED:
        return named and kept.state is InstanceState.DISCARDED
    if not row["destination"]:
        return True  # held, or waiting for its study's images
    return row["state"] == DeliveryState.HELD and row["reason_code"] in (_BY_NUMBER if named else _AMONG_MANY)


def _nothing_to_release(rows: Sequence[CatalogRow], kept: FileRow, named: bool) -> str:
    held = [row for row in rows if row["state"] == DeliveryState.HELD]
    if any(row["reason_code"] == ReasonCode.PERSON for row in held):
        return "a person holds it: `edge queue release` ends that"
    if held and not named:
        return f"it waits for a decision about itself: `edge instances show {kept.instance_id}`"
    return "nothing about it waits for a decision"


def _left(names: Sequence[str], waiting: dict[str, CatalogRow]) -> str:
    """No route of today names these: they stay held, for nothing is dropped that nobody has named."""
    if not names:
        return ""
    listed = ", ".join(f"{name} (delivery {waiting[name]['id']})" for name in names)
    return f"; still held for {listed}, which no route names today: `edge queue release` or `edge queue cancel`"


def _describe_admission(conn: Transaction, added: Added) -> str:
    if added.arrival is Arrival.DUPLICATE:
        return f"out of quarantine: the same object is instance {added.instance_id} already"
    lines = []
    for row in releases.deliveries_of(conn, added.instance_id):
        why = f" ({row['reason_code']})" if row["reason_code"] else ""
        lines.append(f"{row['destination'] or 'no route'}: {row['state']}{why}")
    return f"out of quarantine, as instance {added.instance_id}: {', '.join(lines)}"


def _only_export(kept: FileRow, why: str) -> str:
    number = kept.instance_id
    return (
        f"{why}: it can only be exported or discarded (`edge instances export {number} DIR`,"
        f" `edge instances discard {number}`)"
    )
