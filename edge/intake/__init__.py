"""Spooled objects into the catalog: identity, routes, deliveries and the ledger, in one transaction.

Promise: when `enter_all` returns, the rows of all its objects are on stable storage; none of them counts when it
raises. An object may come again at any time: it is a duplicate then, a success that changes nothing. What decides
about the answer to a sender is edge.scp.recorder; it comes before this.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from edge.dicom import compact, header
from edge.dicom.header import read_header
from edge.dicom.items import MAX_DATA_SET
from edge.dicom.rejection import KEY_OBJECT_SELECTION, RejectionNote, read_note
from edge.errors import Hindered, StorageUnhealthy, Unreadable, place_of
from edge.identity.checks import CheckResult, IdentityCheck
from edge.intake.check_memory import CheckMemory
from edge.intake.policy import Policy
from edge.intake.results import route_returned
from edge.model import (
    EMPTY_REASON,
    Assignment,
    Companion,
    ContextKey,
    Decision,
    InstanceHeader,
    InstanceState,
    Origin,
    Priority,
    Reason,
    ReasonCode,
)
from edge.spool import Bucket, Spool, Stored
from edge.store import catalog, companions, deliveries, folding, ledger, patients, rejections, releases
from edge.store.catalog import Added, Arrival
from edge.store.database import Store, Transaction, try_work
from edge.store.folded_study import StudyIsFolded
from edge.store.patients import Placed
from edge.store.placement_memory import Memory
from edge.store.quarantine import QuarantineShare, total_bytes

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Of a fetched object: it is owed to nobody.
CACHED = Decision(())
#: Why an object waits in quarantine that the gateway itself failed on.
ODD = "the gateway could not enter it: a fault of the gateway, see its log"


class Intake:
    """See the module's promise. Thread-safe: every association calls it from its own thread."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        policy: Policy,
        queued: Callable[[Iterable[str]], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`queued` is called after the commit with the destinations that have new work."""
        self._db, self.spool, self.policy = db, spool, policy
        self.queued, self._clock = queued, clock
        self.quarantine = QuarantineShare(db, lambda: total_bytes(spool.incoming), clock)
        self.may_reject: Callable[[Origin], bool] = lambda _: False
        self.memory, self.checks = Memory(), CheckMemory()
        with db.reading() as conn:
            self.companions = companions.Arrivals(conn)

    def read_rejection(self, stored: Stored, facts: InstanceHeader) -> RejectionNote | None:
        """What an object rejects, where it is a rejection note."""
        length = stored.size - stored.dataset_offset
        if facts.sop_class_uid != KEY_OBJECT_SELECTION or length > MAX_DATA_SET:
            return None
        with self.spool.path_of(stored.path).open("rb") as file:
            return read_note(os.pread(file.fileno(), length, stored.dataset_offset), facts.transfer_syntax_uid)

    def keeps_unreadable(self, origin: Origin, size: int) -> bool:
        """Take of a sender's share of quarantine; False: it is used up."""
        return self.quarantine.take(self.policy.quarantine_most, origin.calling_ae, origin.address, size)

    def _enter(
        self,
        stored: Stored,
        facts: InstanceHeader,
        policy: Policy,
        event: str = ledger.RECEIVED,
        also: Callable[[Transaction, Added], None] = lambda _conn, _added: None,
    ) -> Added:
        """`also` is done in the same transaction."""
        entry = self.prepare_entry(stored, facts, policy, event)

        def work(conn: Transaction) -> Added:
            added = entry.work(conn, None)
            also(conn, added)
            return added

        added = self._write(work, stored.bucket)
        entry.finish()
        return added

    def prepare_entry(
        self, stored: Stored, facts: InstanceHeader, policy: Policy, event: str = ledger.RECEIVED
    ) -> _InstanceEntry:
        """Decide all that does not need the catalog."""
        return _InstanceEntry(self, stored, facts, policy, event)

    def prepare_quarantine(
        self, stored: Stored, kind: ContextKey, uid: str, origin: Origin, reason: str
    ) -> CatalogEntry:
        """Prepare the rows of an object that cannot be read or trusted."""
        return _QuarantineEntry(self, stored, kind, uid, origin, reason)

    def enter_all(self, entries: Sequence[CatalogEntry], also: Callable[[Transaction], None]) -> None:
        """Enter all, and do `also`, in one transaction. An object that the catalog cannot take goes to quarantine.

        Raises Hindered, StorageUnhealthy or MemoryError: then nothing of it counts.
        """

        def enter_together(conn: Transaction) -> None:
            nearby = Memory()
            for entry in entries:
                entry.work(conn, nearby)
            also(conn)

        def one_by_one(conn: Transaction) -> None:
            for entry in entries:
                _enter_or_quarantine(conn, entry)
            also(conn)

        try:
            self._write_unfolding(enter_together, len(entries))
        except (Hindered, StorageUnhealthy, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - one odd object must not stop those beside it
            log.error("a batch is entered one by one: %s", place_of(error))
            self._write_unfolding(one_by_one, len(entries))
        for entry in entries:
            entry.finish()

    def _write_unfolding(self, work: Callable[[Transaction], None], most: int) -> None:
        """Each object of a batch may be of a study that lies in a yearly file."""
        for _ in range(most + 1):
            try:
                return self._db.write(work)
            except StudyIsFolded as error:
                self._unfold(error.study_uid)
        return self._db.write(work)

    def _write(self, work: Callable[[Transaction], T], bucket: Bucket | None) -> T:
        """In one transaction; a study that comes again after years is brought back from its yearly file first."""
        try:
            return self._db.write(work, bucket)
        except StudyIsFolded as error:
            self._unfold(error.study_uid)
        return self._db.write(work, bucket)

    def _unfold(self, uid: str) -> None:
        def unfold(conn: Transaction) -> None:
            if (folded := folding.find_study(conn, uid)) is not None:
                folding.restore_study(conn, folded, self._db.path.parent)

        self._db.write(unfold)

    def read_references(self, name: str) -> tuple[str, ...]:
        """The SOP Instance UIDs that a key object in the spool references (PS3.3 section C.17.6.2)."""
        meta = self.spool.read_meta(name)
        with self.spool.path_of(name).open("rb") as file:
            length = os.fstat(file.fileno()).st_size - meta.dataset_offset

            def read(at: int, n: int) -> bytes:
                return os.pread(file.fileno(), n, meta.dataset_offset + at)

            return header.references(read, length, meta.kind.transfer_syntax_uid)

    # -- what did not come by an association --------------------------------------------------------------------------

    def adopt(self, name: str) -> Added | None:
        """Enter a whole spooled file that the catalog does not know: a crash came between its name and its rows.

        Returns None when it is not ours to read; it is left where it is, and the caller says so.
        """
        try:
            meta = self.spool.read_meta(name)
        except Unreadable:
            return None
        path = self.spool.path_of(name)
        origin = meta.origin or Origin("", "", "", path.stat().st_mtime)
        digest = self.spool.digest(name, meta.dataset_offset)
        stored = Stored(name, path.stat().st_size, meta.dataset_offset, digest, Bucket(path.parent))
        policy = self.policy
        try:
            facts = self.reread_header(name, meta.kind, meta.sop_instance_uid, origin, policy)
        except Unreadable as error:
            entry = self.prepare_quarantine(stored, meta.kind, meta.sop_instance_uid, origin, str(error))
            self._db.write(lambda conn: entry.work(conn, None), stored.bucket)
            entry.finish()
            return None
        return self._enter(stored, facts, policy, ledger.ADOPTED)

    def enter(self, stored: Stored, facts: InstanceHeader, also: Callable[[Transaction, Added], None]) -> Added:
        """Enter an object that a person lets in, like an arrival; `also` is done in the same transaction."""
        return self._enter(stored, facts, self.policy, ledger.ADOPTED, also)

    def facts_of(self, name: str) -> InstanceHeader:
        """The facts of a file that lies in the spool, by its own head. Raises Unreadable or OSError."""
        meta = self.spool.read_meta(name)
        origin = meta.origin or Origin("", "", "", self.spool.path_of(name).stat().st_mtime)
        return self.reread_header(name, meta.kind, meta.sop_instance_uid, origin, self.policy)

    def compact_header(self, name: str) -> tuple[bytes, bool]:
        """The small elements of a file's header, and whether they are all (edge.dicom.compact).

        Raises Unreadable or OSError.
        """
        meta = self.spool.read_meta(name)
        with self.spool.path_of(name).open("rb") as file:
            offset, fd = meta.dataset_offset, file.fileno()
            length = os.fstat(fd).st_size - offset
            read = lambda at, n: os.pread(fd, n, offset + at)  # noqa: E731
            return compact.compact_header(read, length, meta.kind.transfer_syntax_uid)

    def reread_header(self, name: str, kind: ContextKey, uid: str, origin: Origin, policy: Policy) -> InstanceHeader:
        """The facts of a file that lies in the spool."""
        with self.spool.path_of(name).open("rb") as file:
            offset = self.spool.read_meta(name).dataset_offset
            length = os.fstat(file.fileno()).st_size - offset
            return read_header(
                lambda at, n: os.pread(file.fileno(), n, offset + at), length, kind, uid, origin, policy.header
            )


def raise_priority(decision: Decision, facts: InstanceHeader) -> Decision:
    """What another Edge sent as urgent goes on as urgent, whatever our routes say."""
    priority = facts.origin.priority
    if priority == Priority.ROUTINE:
        return decision
    made = (replace(each, priority=Priority(min(each.priority, priority))) for each in decision.assignments)
    return replace(decision, assignments=tuple(made))


class CatalogEntry(Protocol):
    """One object, or what another record brings, on its way into the catalog."""

    def work(self, conn: Transaction, nearby: Memory | None) -> object:
        """Make its rows. May be repeated after a rollback. `nearby`: where objects of this transaction were placed."""

    def finish(self) -> None:
        """Do what follows from the commit."""

    def as_odd(self) -> CatalogEntry:
        """The entry of an object that the catalog could not take."""


def _enter_or_quarantine(conn: Transaction, entry: CatalogEntry) -> None:
    error = try_work(conn, lambda: entry.work(conn, None))
    if error is not None:
        log.critical("an object goes to quarantine, for it cannot be entered: %s", place_of(error))
        entry.as_odd().work(conn, None)


class _InstanceEntry:
    """See Entry. Of an object that can be read."""

    def __init__(self, intake: Intake, stored: Stored, facts: InstanceHeader, policy: Policy, event: str) -> None:
        self._intake, self._stored, self._facts, self._policy, self._event = intake, stored, facts, policy, event
        self._is_cached = bool(facts.origin.fetched_from)
        self._decision = CACHED if self._is_cached else raise_priority(policy.rules.decide(facts), facts)
        self._hold = "" if self._is_cached else policy.rules.hold_reason(facts)
        self._rule = "" if self._is_cached else policy.rules.retention_rule(facts)
        self._references = intake.read_references(stored.path) if self._decision.takes_along else ()
        self._note = None if self._is_cached else intake.read_rejection(stored, facts)
        self._said = Memory.said_by(facts)
        self._known = intake.memory.find(self._said)
        self._added: Added | None = None
        self._more: list[str] = []
        self._joins = False
        self._check: IdentityCheck | None = None
        self._version = -1

    def work(self, conn: Transaction, nearby: Memory | None) -> Added:
        facts, stored, policy, assignments = self._facts, self._stored, self._policy, self._decision.assignments
        known = self._known or (nearby.find(self._said) if nearby else None)
        self._more, self._joins = [], False
        added = self._added = catalog.add(conn, facts, stored, self._hold, known, self._rule)
        if nearby is not None:
            nearby.note(self._said, added.placed)
        if self._is_cached:
            self._record_fetched(conn, added)
        elif added.arrival is not Arrival.DUPLICATE:
            now = facts.origin.received_at
            self._version = self._intake.checks.version
            check = self._check = self._intake.checks.find(conn, added.placed.series_id) if added.placed else None
            returned = route_returned(conn, facts, policy, assignments)
            held_for = EMPTY_REASON
            if returned is not None:
                assignments, held_for = returned.assignments, returned.held_for
                self._more = [each.destination for each in assignments]
            code = _enqueue(conn, added, stored.size, assignments, now, policy, check, held_for)
            _record(conn, added, stored, assignments, facts.origin, self._event)
            note_mismatch(conn, added.instance_id, added.placed, code, now, check)
            self._joins = returned is None and _joins(added, self._decision, code, policy)
            if self._joins:
                self._more = self._join(conn, added)
            elif code is ReasonCode.MISMATCH:
                companions.mark_companion(conn, added.instance_id, self._decision.companion)
        if not self._is_cached:
            self._apply_rejections(conn, added)
        return added

    def _apply_rejections(self, conn: Transaction, added: Added) -> None:
        """What rejection notes before it say of it; and what it says itself, where it is one."""
        facts, note = self._facts, self._note
        uid, now = facts.sop_instance_uid, facts.origin.received_at
        rejections.note_arrival(conn, added.instance_id, uid, now)
        if note is not None and added.arrival is Arrival.NEW:
            allowed, hides = self._intake.may_reject(facts.origin), self._policy.hides_quality
            who = facts.origin.calling_ae
            rejections.enter_note(conn, added.instance_id, uid, note, who, now, is_allowed=allowed, hides_quality=hides)

    def _record_fetched(self, conn: Transaction, added: Added) -> None:
        """It goes nowhere, and leads nothing with it; whose it is, is put on record as for each object."""
        if added.arrival is not Arrival.DUPLICATE:
            origin = self._facts.origin
            _record(conn, added, self._stored, (), origin, ledger.FETCHED)
            note_mismatch(conn, added.instance_id, added.placed, ReasonCode.NONE, origin.received_at)

    def _join(self, conn: Transaction, added: Added) -> list[str]:
        here = companions.StoredInstance(added.instance_id, added.kind_id, self._stored.size)
        assert added.study_id is not None
        uid, now = self._facts.sop_instance_uid, self._facts.origin.received_at
        return self._intake.companions.join(
            conn,
            here,
            added.study_id,
            uid,
            self._decision,
            self._references,
            self._policy.routes_without_companions,
            now,
        )

    def finish(self) -> None:
        added, intake = self._added, self._intake
        assert added is not None
        if self._known is None:
            intake.memory.note(self._said, added.placed)
        if added.placed is not None:
            intake.checks.note(added.placed.series_id, self._check, self._version)
        if added.path != self._stored.path:
            intake.spool.remove(self._stored.path)
            return
        if self._joins and added.study_id is not None:
            intake.companions.note_committed(added.study_id, self._decision, self._policy.routes_without_companions)
        if added.former_path:
            intake.spool.remove(added.former_path)
        intake.queued([*(each.destination for each in self._decision.assignments), *self._more])

    def as_odd(self) -> CatalogEntry:
        facts, stored = self._facts, self._stored
        kind = ContextKey(facts.sop_class_uid, facts.transfer_syntax_uid)
        self._added = Added(Arrival.NEW, 0, None, 0, stored.path)
        self._decision, self._joins, self._more = replace(self._decision, assignments=()), False, []
        return _QuarantineEntry(self._intake, stored, kind, facts.sop_instance_uid, facts.origin, ODD)


class _QuarantineEntry:
    """See Entry. Of an object that cannot be read or trusted."""

    def __init__(self, intake: Intake, stored: Stored, kind: ContextKey, uid: str, origin: Origin, reason: str) -> None:
        self._intake, self._stored, self._kind, self._uid = intake, stored, kind, uid
        self._origin, self._reason = origin, reason
        self._added: Added | None = None

    def work(self, conn: Transaction, nearby: Memory | None) -> Added:
        origin, reason = self._origin, self._reason
        added = self._added = catalog.quarantine(conn, self._kind, self._uid, origin, self._stored, reason)
        if added.arrival is Arrival.NEW:
            who, ids = origin.calling_ae, [added.instance_id]
            ledger.append(conn, origin.received_at, ledger.QUARANTINED, who, ids, payload={"fault": reason})
        return added

    def finish(self) -> None:
        added = self._added
        assert added is not None
        if added.path != self._stored.path:
            self._intake.spool.remove(self._stored.path)
        calling = self._origin.calling_ae
        log.warning("instance %d from %s is in quarantine: %s", added.instance_id, calling, self._reason)

    def as_odd(self) -> CatalogEntry:
        return self


def _joins(added: Added, decision: Decision, code: ReasonCode, policy: Policy) -> bool:
    """May companions follow it, or may it follow images? It leads nothing while a person has to decide about it.

    A companion of another patient than its study's follows, and waits there as well.
    """
    if added.study_id is None or (added.arrival is Arrival.CONFLICT and policy.hold_conflicts):
        return False
    return code is not ReasonCode.MISMATCH or decision.companion is Companion.FOLLOWS


def _enqueue(
    conn: Transaction,
    added: Added,
    size: int,
    assignments: tuple[Assignment, ...],
    now: float,
    policy: Policy,
    check: IdentityCheck | None,
    held_for: Reason,
) -> ReasonCode:
    """Queue an object. `held_for`: why it waits for a person in any case."""
    if not held_for.code:
        held_for = policy.waits_for(assignments, added.placed, check, is_conflict=added.arrival is Arrival.CONFLICT)
    to = assignments or (Assignment(deliveries.UNROUTABLE, Priority.ROUTINE, ""),)
    deliveries.enqueue(conn, added.instance_id, added.kind_id, size, to, now, held_for)
    return held_for.code


def fill_placement(conn: Transaction, instance: int, study: int, facts: InstanceHeader) -> Placed:
    """Keep what the header says of an instance that was entered before that was kept."""
    placed = patients.enter(conn, study, patients.header_of(facts), facts.origin.received_at)
    patients.set_series(conn, instance, placed, patients.attribute_text(facts, patients.INSTANCE_NUMBER))
    return placed


def note_mismatch(
    conn: Transaction,
    instance: int,
    placed: Placed | None,
    code: ReasonCode,
    now: float,
    check: IdentityCheck | None = None,
) -> None:
    """Put an image of another patient on record; where it is not held for a decision, an alert says so."""
    if placed is None:
        return
    if not placed.is_mismatch:
        if check is not None and check.result is CheckResult.DIFFERS:
            payload = {"differs_in": list(check.differs_in), "held": code is ReasonCode.MISMATCH, "against": "order"}
            ledger.append(
                conn, now, ledger.MISMATCH, ledger.EDGE, [instance], study_id=placed.study_id, payload=payload
            )
        return
    state = releases.instance_state(conn, instance)
    held = code in (ReasonCode.MISMATCH, ReasonCode.CONFLICT) or (code and state == InstanceState.CONFLICT)
    if not held:
        patients.alarm(conn, placed, now)
    payload = {"differs_in": list(placed.differs_in), "held": bool(held)}
    ledger.append(conn, now, ledger.MISMATCH, ledger.EDGE, [instance], study_id=placed.study_id, payload=payload)


def _record(
    conn: Transaction, added: Added, stored: Stored, assignments: tuple[Assignment, ...], origin: Origin, event: str
) -> None:
    if added.arrival is Arrival.CONFLICT:
        event = ledger.CONFLICT
    payload = {
        "address": origin.address,
        "destinations": [each.destination for each in assignments],
        "sha256": stored.sha256.hex(),
    }
    ids = [added.instance_id]
    ledger.append(conn, origin.received_at, event, origin.calling_ae, ids, study_id=added.study_id, payload=payload)
