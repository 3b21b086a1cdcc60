"""The custody of one study, received to evicted, as evidence.

A delivery is proved when the queue says confirmed and the ledger says by whom and when, after the instance was last
received. An archive has one object under a SOP Instance UID and confirms the UID, not the bytes: of several versions
none is proved once two may have reached it. Images are counted by UID.

The ledger's hash chain is checked from the study's first row to the newest of all: a row changed, added or taken away
since then shows (but for rows cut off the very end, which nothing inside the ledger can show).
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.model import DeliveryState, InstanceState
from edge.store import ledger, queries
from edge.store.database import Connection
from edge.store.queries import Delivery, Instance
from edge.store.study_patients import StudyPatient, differing


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the ledger about the study."""

    seq: int
    at: float
    event: str
    who: str
    instances: tuple[int, ...]
    destination: str
    detail: str
    hash: str  # hexadecimal
    before: str  # the hash of the row before it
    told: str  # what `hash` is the SHA-256 of, behind the bytes of `before`


@dataclass(frozen=True, slots=True)
class Chain:
    """The check of the ledger's rows `first` to `last`."""

    first: int
    last: int
    broken: int | None  # the first row that does not follow from the one before it
    head: str  # the hash of the last row, hexadecimal

    @property
    def whole(self) -> bool:
        return self.broken is None


@dataclass(frozen=True, slots=True)
class CustodyProof:
    """Is it proved that one destination has one instance?"""

    proved: bool
    confirmed_at: float | None
    text: str  # how it was proved, or why not
    is_settled: bool = False  # it is not to go there, a person decided: no other version waits for it


@dataclass(frozen=True, slots=True)
class Custody:
    """All that is known of the custody of one study."""

    study_uid: str
    instances: tuple[Instance, ...]
    verdicts: dict[tuple[int, str], CustodyProof]  # by instance and destination
    events: tuple[Event, ...]
    chain: Chain
    patients: tuple[StudyPatient, ...] = ()  # several where one differs from the first, else none

    @property
    def images(self) -> int:
        """The number of SOP Instance UIDs."""
        return len({each.sop_instance_uid for each in self.instances})

    @property
    def versions(self) -> dict[str, list[Instance]]:
        """What came in several versions, by SOP Instance UID, in the order of arrival."""
        found: dict[str, list[Instance]] = defaultdict(list)
        for each in self.instances:
            found[each.sop_instance_uid].append(each)
        return {uid: several for uid, several in found.items() if len(several) > 1}

    def proved_images(self, destination: str) -> dict[str, bool]:
        """For each SOP Instance UID that is to be at a destination: is it proved to be there?"""
        found: dict[str, list[CustodyProof]] = defaultdict(list)
        for each in self.instances:
            if (verdict := self.verdicts.get((each.id, destination))) is not None:
                found[each.sop_instance_uid].append(verdict)
        return {uid: all_proved(verdicts) for uid, verdicts in found.items()}

    @property
    def destinations(self) -> list[str]:
        return sorted({destination for _, destination in self.verdicts})

    @property
    def discarded(self) -> tuple[Instance, ...]:
        """Versions that a person refused."""
        return tuple(each for each in self.instances if each.state is InstanceState.DISCARDED)

    @property
    def to_prove(self) -> tuple[Instance, ...]:
        """All but refused versions of images of which another version is kept: an image itself is never left out."""
        kept = {each.sop_instance_uid for each in self.instances if each.state is not InstanceState.DISCARDED}
        refused = {each.id for each in self.discarded if each.sop_instance_uid in kept}
        return tuple(each for each in self.instances if each.id not in refused)

    @property
    def proved(self) -> bool:
        """Every image confirmed at every destination, by a ledger that is whole."""
        asked = self.to_prove
        complete = all(instance.deliveries for instance in asked) and bool(asked)
        there = all(all(self.proved_images(each).values()) for each in self.destinations)
        return complete and self.chain.whole and there


def all_proved(verdicts: Sequence[CustodyProof]) -> bool:
    """Of the versions of one image one is proved to be there, and no other is to go there."""
    return any(each.proved for each in verdicts) and all(each.proved or each.is_settled for each in verdicts)


def custody(
    conn: Connection, study_uid: str, tick: Callable[[int, int], None] = lambda _done, _all: None
) -> Custody | None:
    """Gather the evidence, or None where the study is not known. `tick`: rows of the chain checked, and to check."""
    study = queries.study(conn, study_uid)
    if study is None:
        return None
    instances = tuple(queries.instances_of(conn, study.id))
    events = events_of(conn, study.id)
    proofs = _proofs(events)
    reached = _reached(instances, events)
    verdicts = {
        (instance.id, name): _verdict(delivery, proofs[instance.id].get(name), reached[instance.sop_instance_uid, name])
        for instance in instances
        for name, delivery in instance.deliveries.items()
    }
    chain = _check_chain(conn, events, tick)
    return Custody(study_uid, instances, verdicts, events, chain, differing(study.patients))


def _reached(instances: Iterable[Instance], events: Iterable[Event]) -> Mapping[tuple[str, str], set[str]]:
    """By SOP Instance UID and destination: the digests of the versions that may have got there, by queue or ledger.

    An attempt whose end nobody knows may have.
    """
    sent = {(each, event.destination) for event in events if event.event == ledger.SENT for each in event.instances}
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in instances:
        for name, delivery in each.deliveries.items():
            unknown_end = delivery.state is DeliveryState.ACTIVE or (delivery.attempts and delivery.status is None)
            if delivery.sent_at is not None or unknown_end or (each.id, name) in sent:
                found[each.sop_instance_uid, name].add(each.sha256)
    return found


def events_of(conn: Connection, study_id: int) -> tuple[Event, ...]:
    """What the ledger says of a study, in order; whether it is whole is not checked here."""
    return tuple(_event(row) for row in conn.execute(_EVENTS, (study_id,)))


def _event(row: sqlite3.Row) -> Event:
    return Event(
        row["seq"],
        row["at"],
        row["event"],
        row["who"],
        tuple(json.loads(row["instances"])),
        row["destination"],
        row["detail"],
        row["hash"].hex(),
        row["before"].hex(),
        ledger.row_text(*(row[name] for name in _TOLD)),
    )


_TOLD = ("at", "event", "who", "study_id", "instances", "destination", "detail")
_EVENTS = """
SELECT l.*, coalesce((SELECT hash FROM ledger WHERE seq = l.seq - 1), zeroblob(32)) AS before
FROM ledger l WHERE l.study_id = ? ORDER BY l.seq
"""


def _proofs(events: Iterable[Event]) -> Mapping[int, dict[str, Event]]:
    """The confirmations that still hold, by instance and destination.

    What was denied later does not, nor what is older than the instance's last reception.
    """
    proofs: dict[int, dict[str, Event]] = defaultdict(dict)
    for event in events:
        for instance in event.instances:
            if event.event == ledger.CONFIRMED:
                proofs[instance][event.destination] = event
            elif event.event == ledger.DENIED:
                proofs[instance].pop(event.destination, None)
            elif event.event in (ledger.RECEIVED, ledger.ADOPTED, ledger.CONFLICT):
                proofs[instance].clear()
    return proofs


def _verdict(delivery: Delivery, proof: Event | None, reached: set[str]) -> CustodyProof:
    if delivery.state is not DeliveryState.CONFIRMED:
        where = delivery.state.value if delivery.destination else "no route matched"
        text = f"{where}: {delivery.reason}" if delivery.reason else where
        return CustodyProof(False, None, text, delivery.state is DeliveryState.CANCELLED)
    if proof is None:
        return CustodyProof(False, None, "the queue says confirmed, but the ledger has no row that says so")
    if len(reached) > 1:
        text = f"{len(reached)} versions may have got there under this UID: which one it has, no confirmation says"
        return CustodyProof(False, None, text)
    return CustodyProof(True, proof.at, f"{proof.who} {proof.detail}".strip() + f" (ledger row {proof.seq})")


def _check_chain(conn: Connection, events: Sequence[Event], tick: Callable[[int, int], None]) -> Chain:
    first = events[0].seq if events else 1
    end = ledger.head(conn)
    broken = ledger.check(conn, first - 1, lambda seq: tick(seq - first, end.seq - first + 1))
    return Chain(first, end.seq, broken.seq if broken else None, end.hash.hex())
