"""The one commit point: `accept` makes an object ours, and its return value is the answer to the modality.

Promise: success is returned only when the object's file, its name and its rows are on stable storage, in this order:
look at the header, decide the routes, sync the file, rename it, sync the directory, commit. `accept` may be called
again with the same object at any time: it is a duplicate then, a success that changes nothing.

What fails leaves nothing behind but the reason: no room, a shortage and a broken disk answer 0xA700 (try again later);
a header that cannot be read or trusted answers 0xC000, and the object is kept in quarantine for a person to look at, as
far as its sender's share of it goes (edge.quarantine).
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword

from edge import hindrance
from edge.config.sections import Config
from edge.dicom import header
from edge.errors import Cause, CommitInDoubt, Hindered, StorageFull, StorageUnhealthy, Unreadable
from edge.identity import Standing
from edge.model import Assignment, ContextKey, InstanceHeader, InstanceState, Origin, Priority, ReasonCode, Values
from edge.routing.rules import Companion, Decision, Rules, compile_rules
from edge.spool import Bucket, Partial, Spool, Stored
from edge.store import catalog, companions, deliveries, ledger, patients
from edge.store.catalog import Added, Arrival
from edge.store.database import Connection, Database
from edge.store.operator_actions import CONFLICT
from edge.store.patients import Placed
from edge.store.quarantine import QuarantineShare, total_bytes

log = logging.getLogger(__name__)

# C-STORE statuses (PS3.4 table B.2-1).
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
#: An Error Comment is an LO (PS3.5 section 6.2).
MAX_COMMENT = 64

NO_ROUTE = "no route matched: add one, then `edge instances release`"
NOBODY = "nobody: no route matched"


@dataclass(frozen=True, slots=True)
class StoreResponse:
    """The C-STORE status and its Error Comment (0000,0902)."""

    status: int
    comment: str = ""
    cause: Cause | None = None  # what hindered us, where it was that


def answer_for(error: Hindered | StorageUnhealthy | MemoryError) -> StoreResponse:
    """What a sender gets when we cannot take its object: Refused: Out of Resources (PS3.4 table B.2-1)."""
    if isinstance(error, StorageUnhealthy):
        return StoreResponse(OUT_OF_RESOURCES, "storage is unhealthy", Cause.FAILED)
    cause, text = hindrance.cause_of(error), str(error)
    fits = isinstance(error, StorageFull) and len(text) <= MAX_COMMENT
    return StoreResponse(OUT_OF_RESOURCES, text if fits else f"the gateway is {hindrance.words_of(cause)}", cause)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a configuration asks of intake; replaced as a whole on reload."""

    rules: Rules
    wanted: dict[int, str]  # tag -> keyword: what is read of every header
    nested: frozenset[int]  # of these, what rules may also find inside sequences
    hold_conflicts: bool
    hold_mismatches: bool
    hold_stat: bool  # an urgent image is held for a mismatch, too
    lead_none: frozenset[str]  # routes whose images are not followed by companions
    quarantine_most: float  # part of the disk

    @classmethod
    def of(cls, config: Config) -> Policy:
        rules = compile_rules(config)
        tags = {tag_for_keyword(keyword): keyword for keyword in patients.KEYWORDS | rules.wanted}
        wanted = {int(tag): keyword for tag, keyword in tags.items() if tag is not None}
        nested = frozenset(
            tag for tag, keyword in wanted.items() if keyword in rules.wanted - patients.TOP_LEVEL_KEYWORDS
        )
        identity = config.identity
        hold_conflicts, hold_mismatches = config.listen.conflicts == "hold", identity.mismatch == "hold"
        hold_stat, most = identity.hold_stat, config.quarantine.most
        return cls(rules, wanted, nested, hold_conflicts, hold_mismatches, hold_stat, rules.lead_none, most)

    def waits_for(
        self, assignments: Sequence[Assignment], placed: Placed | None, *, is_conflict: bool
    ) -> tuple[str, ReasonCode]:
        """Why an instance waits for a person, in words and as a code; empty where it goes."""
        if is_conflict and self.hold_conflicts:
            return (CONFLICT, ReasonCode.CONFLICT) if assignments else (NO_ROUTE, ReasonCode.UNROUTABLE)
        stat = any(each.priority is Priority.STAT for each in assignments)
        if placed is not None and placed.is_mismatch and self.hold_mismatches and (self.hold_stat or not stat):
            return mismatch_words(placed), ReasonCode.MISMATCH
        return ("", ReasonCode.NONE) if assignments else (NO_ROUTE, ReasonCode.UNROUTABLE)


def mismatch_words(placed: Placed) -> str:
    """What is wrong, without saying whose it is."""
    return f"mismatch: another {patients.words_for(placed.differs_in)} than the images before in this study"


#: What an object says of its study, in values: two that say the same are placed alike.
Saying = tuple[Values | None, ...]


class Memory:
    """Where objects were placed that agreed: the next one that says the same need not be looked up. Thread-safe.

    Only what is committed may be noted. Its rows never change, nor does it ever differ later.
    """

    MOST = 4096
    _SAID = ("StudyInstanceUID", *patients.PATIENT_COLUMNS, *patients.STUDY_COLUMNS, *patients.SERIES_COLUMNS)

    def __init__(self) -> None:
        self._known: dict[Saying, Placed] = {}

    def find(self, said: Saying) -> Placed | None:
        return self._known.get(said)

    def note(self, said: Saying, placed: Placed | None) -> None:
        if placed is not None and placed.standing is Standing.AGREES:
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[said] = placed

    @classmethod
    def said_by(cls, facts: InstanceHeader) -> Saying:
        return tuple(map(facts.attributes.get, cls._SAID))


class Intake:
    """See the module's promise. Thread-safe: every association calls it from its own thread."""

    def __init__(
        self,
        db: Database,
        spool: Spool,
        policy: Policy,
        queued: Callable[[Iterable[str]], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`queued` is told, after the commit, which destinations have new work."""
        self._db, self._spool, self.policy = db, spool, policy
        self._queued, self._clock = queued, clock
        self.quarantine = QuarantineShare(db, lambda: total_bytes(spool.incoming), clock)
        self._memory = Memory()
        with db.reading() as conn:
            self._companions = companions.Arrivals(conn)

    def begin(self, kind: ContextKey, sop_instance_uid: str, origin: Origin) -> Partial:
        """Open a file for an object that is about to arrive. Raises Hindered or StorageUnhealthy."""
        if self._db.failure is not None:
            raise StorageUnhealthy(self._db.failure)
        return self._spool.begin(kind, sop_instance_uid, origin)

    def accept(self, partial: Partial, kind: ContextKey, sop_instance_uid: str, origin: Origin) -> StoreResponse:
        """Make a received object ours, durably, and say what to answer. The partial file is used up."""
        try:
            return self._accept(partial, kind, sop_instance_uid, origin)
        except (Hindered, MemoryError) as error:
            # Rows in doubt may come back with a crash: their file stays then, and the next start finds out.
            if not (isinstance(error, Hindered) and error.is_in_doubt):
                self._let_go(partial)
            return answer_for(error)
        except StorageUnhealthy as error:
            self._db.fail(str(error))
            if not isinstance(error, CommitInDoubt):  # else the file stays: its rows may be there after a restart
                self._let_go(partial)
            return answer_for(error)

    @staticmethod
    def _let_go(partial: Partial) -> None:
        """Forget what was refused, as well as a failing disk allows: else a restart would adopt it."""
        try:
            partial.discard()
        except OSError as error:
            log.error("a refused file could not be removed: %s", error.strerror)

    def _accept(self, partial: Partial, kind: ContextKey, sop_instance_uid: str, origin: Origin) -> StoreResponse:
        policy = self.policy
        length = partial.size - partial.dataset_offset
        partial.seal()
        try:
            facts = look(partial.read, length, kind, sop_instance_uid, origin, policy)
        except Unreadable as error:
            if not self.quarantine.take(policy.quarantine_most, origin.calling_ae, origin.address, partial.size):
                self._let_go(partial)
                return StoreResponse(CANNOT_UNDERSTAND, f"not kept, quarantine is full: {error}"[:MAX_COMMENT])
            return self._quarantine(partial.finish(), kind, sop_instance_uid, origin, str(error))
        self._enter(partial.finish(), facts, policy)
        return StoreResponse(SUCCESS)

    def _enter(
        self,
        stored: Stored,
        facts: InstanceHeader,
        policy: Policy,
        event: str = ledger.RECEIVED,
        also: Callable[[Connection, Added], None] = lambda _conn, _added: None,
    ) -> Added:
        """`also` is done in the same transaction."""
        decision, hold = policy.rules.decide(facts), policy.rules.hold_reason(facts)
        assignments = decision.assignments
        references = self._references(stored.path) if decision.takes_along else ()
        said = Memory.said_by(facts)
        known = self._memory.find(said)

        def work(conn: Connection) -> tuple[Added, list[str], bool]:
            added = catalog.add(conn, facts, stored, hold, known)
            more: list[str] = []
            joins = False
            if added.arrival is not Arrival.DUPLICATE:
                code = _enqueue(conn, added, stored.size, assignments, facts.origin.received_at, policy)
                _record(conn, added, stored, assignments, facts.origin, event)
                note_mismatch(conn, added.instance_id, added.placed, code, facts.origin.received_at)
                joins = _joins(added, decision, code, policy)
                if joins:
                    more = self._join(conn, added, stored.size, facts, decision, references, policy)
                elif code is ReasonCode.MISMATCH:
                    companions.mark(conn, added.instance_id, decision.companion)
            also(conn, added)
            return added, more, joins

        added, more, joined = self._db.write(work, stored.bucket)
        if known is None:
            self._memory.note(said, added.placed)
        if added.path != stored.path:
            self._spool.remove(stored.path)
        else:
            if joined and added.study_id is not None:
                self._companions.committed(added.study_id, decision, policy.lead_none)
            self._queued([*(each.destination for each in assignments), *more])
        return added

    def _join(
        self,
        conn: Connection,
        added: Added,
        size: int,
        facts: InstanceHeader,
        decision: Decision,
        references: Sequence[str],
        policy: Policy,
    ) -> list[str]:
        here = companions.Instance(added.instance_id, added.kind_id, size)
        assert added.study_id is not None
        uid, now = facts.sop_instance_uid, facts.origin.received_at
        return self._companions.join(conn, here, added.study_id, uid, decision, references, policy.lead_none, now)

    def _references(self, name: str) -> tuple[str, ...]:
        """The SOP Instance UIDs that a key object in the spool references (PS3.3 section C.17.6.2)."""
        meta = self._spool.read_meta(name)
        with self._spool.path_of(name).open("rb") as file:
            length = os.fstat(file.fileno()).st_size - meta.dataset_offset

            def read(at: int, n: int) -> bytes:
                return os.pread(file.fileno(), n, meta.dataset_offset + at)

            return header.references(read, length, meta.kind.transfer_syntax_uid)

    def _quarantine(self, stored: Stored, kind: ContextKey, uid: str, origin: Origin, reason: str) -> StoreResponse:
        def work(conn: Connection) -> Added:
            added = catalog.quarantine(conn, kind, uid, origin, stored, reason)
            if added.arrival is Arrival.NEW:
                who, ids = origin.calling_ae, [added.instance_id]
                ledger.append(conn, origin.received_at, ledger.QUARANTINED, who, ids, detail=reason)
            return added

        added = self._db.write(work, stored.bucket)
        if added.path != stored.path:
            self._spool.remove(stored.path)
        log.warning("instance %d from %s is in quarantine: %s", added.instance_id, origin.calling_ae, reason)
        return StoreResponse(CANNOT_UNDERSTAND, f"kept in quarantine: {reason}")

    # -- what did not come by an association --------------------------------------------------------------------------

    def adopt(self, name: str) -> Added | None:
        """Enter a whole spooled file that the catalog does not know: a crash came between its name and its rows.

        Returns None when it is not ours to read; it is left where it is, and the caller says so.
        """
        try:
            meta = self._spool.read_meta(name)
        except Unreadable:
            return None
        path = self._spool.path_of(name)
        origin = meta.origin or Origin("", "", "", path.stat().st_mtime)
        digest = self._spool.digest(name, meta.dataset_offset)
        stored = Stored(name, path.stat().st_size, meta.dataset_offset, digest, Bucket(path.parent))
        policy = self.policy
        try:
            facts = self._look_again(name, meta.kind, meta.sop_instance_uid, origin, policy)
        except Unreadable as error:
            self._quarantine(stored, meta.kind, meta.sop_instance_uid, origin, str(error))
            return None
        return self._enter(stored, facts, policy, ledger.ADOPTED)

    def enter(self, stored: Stored, facts: InstanceHeader, also: Callable[[Connection, Added], None]) -> Added:
        """Enter an object that a person lets in, like an arrival; `also` is done in the same transaction."""
        return self._enter(stored, facts, self.policy, ledger.ADOPTED, also)

    def facts_of(self, name: str) -> InstanceHeader:
        """The facts of a file that lies in the spool, by its own head. Raises Unreadable or OSError."""
        meta = self._spool.read_meta(name)
        origin = meta.origin or Origin("", "", "", self._spool.path_of(name).stat().st_mtime)
        return self._look_again(name, meta.kind, meta.sop_instance_uid, origin, self.policy)

    def _look_again(self, name: str, kind: ContextKey, uid: str, origin: Origin, policy: Policy) -> InstanceHeader:
        """The facts of a file that lies in the spool."""
        with self._spool.path_of(name).open("rb") as file:
            offset = self._spool.read_meta(name).dataset_offset
            length = os.fstat(file.fileno()).st_size - offset
            return look(lambda at, n: os.pread(file.fileno(), n, offset + at), length, kind, uid, origin, policy)


def look(
    read: Callable[[int, int], bytes],
    length: int,
    kind: ContextKey,
    sop_instance_uid: str,
    origin: Origin,
    policy: Policy,
) -> InstanceHeader:
    """The facts of an object, from a bounded look at its header. Unreadable when it cannot be read or trusted."""
    found = header.scan(read, length, kind.transfer_syntax_uid, frozenset(policy.wanted), policy.nested)
    attributes = {policy.wanted[tag]: values for tag, values in found.items()}
    facts = InstanceHeader(kind.sop_class_uid, sop_instance_uid, kind.transfer_syntax_uid, origin, attributes)
    if facts.first("SOPInstanceUID") != sop_instance_uid:
        raise Unreadable("the SOP Instance UID of the data set is not that of the C-STORE request")
    if facts.first("SOPClassUID") != kind.sop_class_uid:
        raise Unreadable("the SOP Class UID of the data set is not that of the C-STORE request")
    return facts


def _joins(added: Added, decision: Decision, code: ReasonCode, policy: Policy) -> bool:
    """May companions follow it, or may it follow images? It leads nothing while a person has to decide about it.

    A companion of another patient than its study's follows, and waits there as well.
    """
    if added.study_id is None or (added.arrival is Arrival.CONFLICT and policy.hold_conflicts):
        return False
    return code is not ReasonCode.MISMATCH or decision.companion is Companion.FOLLOWS


def _enqueue(
    conn: Connection, added: Added, size: int, assignments: tuple[Assignment, ...], now: float, policy: Policy
) -> ReasonCode:
    held, code = policy.waits_for(assignments, added.placed, is_conflict=added.arrival is Arrival.CONFLICT)
    to = assignments or (Assignment(deliveries.UNROUTABLE, Priority.ROUTINE, ""),)
    deliveries.enqueue(conn, added.instance_id, added.kind_id, size, to, now, held, code)
    return code


def fill(conn: Connection, instance: int, study: int, facts: InstanceHeader) -> Placed:
    """Keep what the header says of an instance that was entered before that was kept."""
    placed = patients.enter(conn, study, patients.header_of(facts), facts.origin.received_at)
    patients.set_series(conn, instance, placed, patients.text(facts, patients.INSTANCE_NUMBER))
    return placed


def note_mismatch(conn: Connection, instance: int, placed: Placed | None, code: ReasonCode, now: float) -> None:
    """Put an image of another patient on record; where it is not held for a decision, people are told."""
    if placed is None or not placed.is_mismatch:
        return
    (state,) = conn.execute("SELECT state FROM instance WHERE id = ?", (instance,)).fetchone()
    held = code in (ReasonCode.MISMATCH, ReasonCode.CONFLICT) or (code and state == InstanceState.CONFLICT)
    if not held:
        patients.alarm(conn, placed, now)
    detail = f"{mismatch_words(placed)}; {'held' if held else 'not held for it'}"
    ledger.append(conn, now, ledger.MISMATCH, ledger.EDGE, [instance], study_id=placed.study_id, detail=detail)


def _record(
    conn: Connection, added: Added, stored: Stored, assignments: tuple[Assignment, ...], origin: Origin, event: str
) -> None:
    if added.arrival is Arrival.CONFLICT:
        event = ledger.CONFLICT
    told = ", ".join(each.destination for each in assignments) or NOBODY
    detail = f"from {origin.address} for {told}; sha256 {stored.sha256.hex()}"  # told_destinations reads it
    ids = [added.instance_id]
    ledger.append(conn, origin.received_at, event, origin.calling_ae, ids, study_id=added.study_id, detail=detail)


def told_destinations(detail: str) -> list[str] | None:
    """The destinations that the ledger's row of an arrival or a new routing names; None for another row."""
    told = _ARRIVAL.fullmatch(detail) or _ROUTED.match(detail)
    if told is None:
        return None
    return [] if told[1] == NOBODY else told[1].split(", ")


_ARRIVAL = re.compile(r"from \S* for (.*); sha256 [0-9a-f]{64}")
_ROUTED = re.compile(r"routed to ([^:]*)")
