"""Entries of the catalog made from records of the journal: an object that can be read, or one for quarantine.

An entry decides all that does not need the catalog when it is made, which any thread may do; its rows are made in a
transaction of `Intake.enter_all`, as often as that is tried.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from edge.errors import place_of
from edge.identity.checks import CheckResult, IdentityCheck
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
from edge.spool import Spool, Stored
from edge.store import catalog, companions, deliveries, ledger, patients, rejection_notes, releases
from edge.store.catalog import Added, Arrival
from edge.store.database import Transaction, try_work
from edge.store.patients import Placement
from edge.store.placement_memory import Memory

if TYPE_CHECKING:
    from edge.intake import Intake

log = logging.getLogger(__name__)

#: Of a fetched object: it is owed to no destination.
CACHED = Decision(())
#: Why an object waits in quarantine that the gateway itself failed on.
ODD = "the gateway could not enter it: a fault of the gateway, see its log"


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


def enter_or_quarantine(conn: Transaction, entry: CatalogEntry) -> None:
    """Make the rows of an object; where the catalog cannot take it, those of one in quarantine."""
    error = try_work(conn, lambda: entry.work(conn, None))
    if error is not None:
        log.critical("an object goes to quarantine, for it cannot be entered: %s", place_of(error))
        entry.as_odd().work(conn, None)


class InstanceEntry:
    """See CatalogEntry. Of an object that can be read."""

    def __init__(self, intake: Intake, stored: Stored, facts: InstanceHeader, policy: Policy, event: str) -> None:
        self._intake, self._stored, self._facts, self._policy, self._event = intake, stored, facts, policy, event
        self._is_cached = bool(facts.origin.fetched_from)
        self._decision = CACHED if self._is_cached else raise_priority(policy.rules.decide(facts), facts)
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
        kept_by = self._intake.policy.rules  # of now: what is new in them keeps what was on its way, too
        hold, rule = ("", "") if self._is_cached else (kept_by.hold_reason(facts), kept_by.retention_rule(facts))
        added = self._added = catalog.add(conn, facts, stored, hold, known, rule)
        _set_damaged_aside(self._intake.spool, added)
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
        rejection_notes.note_arrival(conn, added.instance_id, uid, now)
        if note is not None and added.arrival is Arrival.NEW:
            allowed, hides = self._intake.may_reject(facts.origin), self._policy.hides_quality
            who = facts.origin.calling_ae
            rejection_notes.enter_note(
                conn, added.instance_id, uid, note, who, now, is_allowed=allowed, hides_quality=hides
            )

    def _record_fetched(self, conn: Transaction, added: Added) -> None:
        """Record a fetched object: it goes nowhere; its patient is recorded as for each object."""
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
        _remove_former(intake.spool, added)
        intake.queued([*(each.destination for each in self._decision.assignments), *self._more])

    def as_odd(self) -> CatalogEntry:
        facts, stored = self._facts, self._stored
        context_key = ContextKey(facts.sop_class_uid, facts.transfer_syntax_uid)
        self._added = Added(Arrival.NEW, 0, None, 0, stored.path)
        self._decision, self._joins, self._more = replace(self._decision, assignments=()), False, []
        return QuarantineEntry(self._intake, stored, context_key, facts.sop_instance_uid, facts.origin, ODD)


class QuarantineEntry:
    """See CatalogEntry. Of an object that cannot be read or trusted."""

    def __init__(
        self, intake: Intake, stored: Stored, context_key: ContextKey, uid: str, origin: Origin, reason: str
    ) -> None:
        self._intake, self._stored, self._context_key, self._uid = intake, stored, context_key, uid
        self._origin, self._reason = origin, reason
        self._added: Added | None = None

    def work(self, conn: Transaction, nearby: Memory | None) -> Added:
        origin, reason = self._origin, self._reason
        added = self._added = catalog.quarantine(conn, self._context_key, self._uid, origin, self._stored, reason)
        _set_damaged_aside(self._intake.spool, added)
        if added.arrival is Arrival.NEW:
            who, ids = origin.calling_ae, [added.instance_id]
            ledger.append(conn, origin.received_at, ledger.QUARANTINED, who, ids, payload={"fault": reason})
        return added

    def finish(self) -> None:
        added = self._added
        assert added is not None
        if added.path != self._stored.path:
            self._intake.spool.remove(self._stored.path)
        _remove_former(self._intake.spool, added)
        calling = self._origin.calling_ae
        log.warning("instance %d from %s is in quarantine: %s", added.instance_id, calling, self._reason)

    def as_odd(self) -> CatalogEntry:
        return self


def _set_damaged_aside(spool: Spool, added: Added) -> None:
    """Keep the damaged file that an arrival replaces for a person.

    Before the commit: behind it a crash would leave a file without a row, which the next start adopts.
    """
    if added.former_path and added.is_former_damaged:
        with _file_may_stay(added.former_path):
            spool.set_aside(added.former_path)


def _remove_former(spool: Spool, added: Added) -> None:
    """Remove the file that an arrival has replaced."""
    if added.former_path and not added.is_former_damaged:
        with _file_may_stay(added.former_path):
            spool.remove(added.former_path)


@contextlib.contextmanager
def _file_may_stay(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.error("%s stays in the spool, which has it again: %s", path, error.strerror or error)


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


def fill_placement(conn: Transaction, instance: int, study: int, facts: InstanceHeader) -> Placement:
    """Keep what the header says of an instance that was entered before that was kept."""
    placed = patients.enter(conn, study, patients.header_of(facts), facts.origin.received_at)
    patients.set_series(conn, instance, placed, patients.attribute_text(facts, patients.INSTANCE_NUMBER))
    return placed


def note_mismatch(
    conn: Transaction,
    instance: int,
    placed: Placement | None,
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
