"""The custody of one study, received to evicted, as evidence.

A delivery is proved when its state is confirmed and the ledger has the confirmation, with source and time, after the
instance was last received. An archive has one object under a SOP Instance UID and confirms the UID, not the bytes: of
several versions none is proved once two may have reached it. Images are counted by UID.

The ledger's hash chain is checked from the study's first row to the newest of all: a row that was changed,
added or removed since then is found (except rows removed from the end, which nothing inside the ledger can show).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edge.model import DeliveryState, InstanceState
from edge.store import folding, ledger, ledger_rows, queries, unfolding
from edge.store.commitment_requests import ListedRequest, list_requests_of_study
from edge.store.database import CatalogRow, Transaction
from edge.store.folded_files import files_beside
from edge.store.ledger import Payload
from edge.store.ledger_text import payload_of_row, render_row
from edge.store.queries import Delivery, Instance
from edge.store.studies import study_by_uid
from edge.store.study_patients import StudyPatient, list_differing_patients


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the ledger about the study."""

    seq: int
    at: float
    event: str
    who: str
    instances: tuple[int, ...]
    destination: str
    payload: Payload
    words: str  # its text, for people
    hash: str  # hexadecimal
    before: str  # the hash of the row before it
    covered: str  # `hash` is the SHA-256 of the bytes of `before` and of this


def group_events(events: Iterable[Event]) -> list[list[Event]]:
    """Group those with the same event, actor and destination, in the order of their first rows."""
    groups: dict[tuple[str, str, str], list[Event]] = {}
    for event in events:
        groups.setdefault((event.event, event.who, event.destination), []).append(event)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class ChainCheck:
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
    """Whether one destination is proved to have one instance."""

    proved: bool
    confirmed_at: float | None
    text: str  # how it was proved, or why not
    is_settled: bool = False  # a person decided that it is not sent there


@dataclass(frozen=True, slots=True)
class Custody:
    """All that is known of the custody of one study."""

    study_uid: str
    instances: tuple[Instance, ...]
    verdicts: dict[tuple[int, str], CustodyProof]  # by instance and destination
    events: tuple[Event, ...]
    chain: ChainCheck
    patients: tuple[StudyPatient, ...] = ()  # several where one differs from the first, else none
    commitments: tuple[ListedRequest, ...] = ()  # that modalities asked, and that are kept; the rest is in the events

    @property
    def images(self) -> int:
        """The number of SOP Instance UIDs."""
        return len({each.sop_instance_uid for each in self.instances})

    @property
    def versions(self) -> dict[str, list[Instance]]:
        """The images of several versions, by SOP Instance UID, in the order of arrival."""
        found: dict[str, list[Instance]] = defaultdict(list)
        for each in self.instances:
            found[each.sop_instance_uid].append(each)
        return {uid: several for uid, several in found.items() if len(several) > 1}

    def proved_images(self, destination: str) -> dict[str, bool]:
        """Whether each SOP Instance UID that is sent to a destination is proved to be there."""
        found: dict[str, list[CustodyProof]] = defaultdict(list)
        for each in self.instances:
            if (verdict := self.verdicts.get((each.id, destination))) is not None:
                found[each.sop_instance_uid].append(verdict)
        return {uid: all_proved(verdicts) for uid, verdicts in found.items()}

    @property
    def destinations(self) -> list[str]:
        return sorted({destination for _, destination in self.verdicts})

    @property
    def refused_versions(self) -> tuple[Instance, ...]:
        """Versions that a person refused."""
        return tuple(each for each in self.instances if each.state is InstanceState.DISCARDED)

    @property
    def versions_to_prove(self) -> tuple[Instance, ...]:
        """All versions but the refused ones of images of which another version is kept: no image is left out."""
        kept = {each.sop_instance_uid for each in self.instances if each.state is not InstanceState.DISCARDED}
        refused = {each.id for each in self.refused_versions if each.sop_instance_uid in kept}
        return tuple(each for each in self.instances if each.id not in refused)

    @property
    def is_proved(self) -> bool:
        """Every image confirmed at every destination, by a ledger that is whole."""
        asked = self.versions_to_prove
        complete = all(instance.deliveries for instance in asked) and bool(asked)
        there = all(all(self.proved_images(each).values()) for each in self.destinations)
        return complete and self.chain.whole and there


def all_proved(verdicts: Sequence[CustodyProof]) -> bool:
    """Whether one version of an image is proved to be there, and no other is still to be sent there."""
    return any(each.proved for each in verdicts) and all(each.proved or each.is_settled for each in verdicts)


def custody(
    conn: Transaction, study_uid: str, tick: Callable[[int, int], None] = lambda _done, _all: None
) -> Custody | None:
    """Gather the evidence, or None where the study is not known. `tick`: rows of the chain checked, and to check.

    A study in a yearly file is read from there. Raises DamagedFold.
    """
    if (folded := folding.find_study(conn, study_uid)) is None:
        return _custody(conn, study_uid, tick)
    with unfolding.open_in_memory([folding.record_in(files_beside(conn), folded)]) as asked:
        found = _custody(asked, study_uid, lambda _done, _all: None)
    rest = _check_chain(conn, found.events if found else (), tick)
    if found is None or not found.chain.whole:
        return found
    return replace(found, chain=rest)


def _custody(conn: Transaction, study_uid: str, tick: Callable[[int, int], None]) -> Custody | None:
    study = study_by_uid(conn, study_uid)
    if study is None:
        return None
    instances = tuple(queries.instances_of(conn, study.id))
    events = events_of(conn, study.id)
    proofs = _proofs(events)
    reached = _versions_there(instances, events)
    verdicts = {
        (instance.id, name): _prove_delivery(
            delivery, proofs[instance.id].get(name), reached[instance.sop_instance_uid, name]
        )
        for instance in instances
        for name, delivery in instance.deliveries.items()
    }
    chain = _check_chain(conn, events, tick)
    patients, commitments = list_differing_patients(study.patients), tuple(list_requests_of_study(conn, study.id))
    return Custody(study_uid, instances, verdicts, events, chain, patients, commitments)


def _versions_there(instances: Iterable[Instance], events: Iterable[Event]) -> Mapping[tuple[str, str], set[str]]:
    """The digests of the versions that may have arrived, by SOP Instance UID and destination, from queue or ledger.

    An attempt with an unknown end may have.
    """
    sent = {(each, event.destination) for event in events if event.event == ledger.SENT for each in event.instances}
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in instances:
        for name, delivery in each.deliveries.items():
            unknown_end = delivery.state is DeliveryState.ACTIVE or (delivery.attempts and delivery.status is None)
            if delivery.sent_at is not None or unknown_end or (each.id, name) in sent:
                found[each.sop_instance_uid, name].add(each.sha256)
    return found


def events_of(conn: Transaction, study_id: int) -> tuple[Event, ...]:
    """The rows of the ledger about a study, in order; the chain is not checked here."""
    return tuple(_event(row) for row in ledger_rows.rows_of_study(conn, study_id))


def _event(row: CatalogRow) -> Event:
    return Event(
        row["seq"],
        row["at"],
        row["event"],
        row["who"],
        tuple(json.loads(row["instances"])),
        row["destination"],
        payload_of_row(row),
        render_row(row),
        row["hash"].hex(),
        row["before"].hex(),
        ledger.row_text(*(row[name] for name in ledger.COLUMNS.split(", "))),
    )


def _proofs(events: Iterable[Event]) -> Mapping[int, dict[str, Event]]:
    """The confirmations that still hold, by instance and destination.

    A later denial ends a confirmation, and so does a later reception of the instance.
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


def _prove_delivery(delivery: Delivery, proof: Event | None, reached: set[str]) -> CustodyProof:
    if delivery.state is not DeliveryState.CONFIRMED:
        where = delivery.state.label if delivery.destination else "no route matched"
        text = f"{where}: {delivery.reason}" if delivery.reason else where
        return CustodyProof(False, None, text, delivery.state is DeliveryState.CANCELLED)
    if proof is None:
        return CustodyProof(False, None, "the queue has it as confirmed, but the ledger has no row of the confirmation")
    if len(reached) > 1:
        text = f"{len(reached)} versions may have arrived there under this UID: no confirmation shows which one it has"
        return CustodyProof(False, None, text)
    return CustodyProof(True, proof.at, f"{proof.who} {proof.words}".strip() + f" (ledger row {proof.seq})")


def _check_chain(conn: Transaction, events: Sequence[Event], tick: Callable[[int, int], None]) -> ChainCheck:
    first = events[0].seq if events else 1
    end = ledger.head(conn)
    broken = ledger.check(conn, first - 1, lambda seq: tick(seq - first, end.seq - first + 1))
    return ChainCheck(first, end.seq, broken.seq if broken else None, end.hash.hex())
