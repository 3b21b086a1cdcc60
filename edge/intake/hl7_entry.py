"""HL7 frames on their way from the journal into the catalog (see edge.intake.entries).

Promise: a message (feed, MSH-10, bytes) has its effect exactly once, in the order of arrival. What contradicts the
catalog is parked, and with it each later message that names one of its identifiers; all others go on. What the relays
are owed is entered in the same transaction.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edge.config.sections import Relay
from edge.hl7.extraction import (
    is_known_control,
    list_identifiers,
    list_merges,
    list_named_identifiers,
    list_order_groups,
)
from edge.hl7.extraction import patient_facts as read_patient_facts
from edge.hl7.form import EventClass, classify_event, find_fault
from edge.hl7.message import Hl7Message, parse_message, split_batch
from edge.journal.kinds import hl7_frame
from edge.journal.kinds.hl7_frame import Hl7Frame
from edge.journal.replay import JournalRecord
from edge.store import (
    hl7_messages,
    identity_checks,
    identity_findings,
    known_patients,
    order_entry,
    patient_identifiers,
    relays,
)
from edge.store.commitment_entry import read_small_body
from edge.store.database import Transaction, try_work
from edge.store.hl7_messages import MessageOutcome, MessageState, ReceivedMessage
from edge.store.known_patients import Changes, ChangeSource, Contradiction

log = logging.getLogger(__name__)

ACCOUNT_MOVED, UNEXPECTED = "account-moved", "unexpected"
CONTROL_ID_REUSED, CHARSET_WRONG, CHARSET_GUESSED = "hl7-control-id-reused", "charset-wrong", "charset-guessed"
#: A longer body is kept only while somebody needs it.
KEPT_BODY_BYTES = 256 << 10
MOST_TEXT = 200  # characters of a control ID or an event that are kept

RelaysOf = Callable[[], Mapping[str, Relay]]


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """One message of a frame, read."""

    received: ReceivedMessage
    message: Hl7Message
    data: bytes


def read_frame(record: str, frame: Hl7Frame, data: bytes) -> list[IncomingMessage]:
    """Split a frame and read its messages."""
    found = []
    for position, one in enumerate(split_batch(data).messages):
        message = parse_message(one, frame.charset)
        received = ReceivedMessage(
            record,
            position,
            frame.feed,
            frame.address,
            frame.authority,
            message.control_id[:MOST_TEXT],
            message.event[:MOST_TEXT],
            hashlib.sha256(one).digest(),
            len(one),
            frame.received_at,
        )
        found.append(IncomingMessage(received, message, one))
    return found


class Hl7Entry:
    """The rows of one frame."""

    def __init__(
        self,
        messages: Sequence[IncomingMessage],
        targets: RelaysOf,
        applied: Callable[[], None],
        changes: Callable[[], None],
    ) -> None:
        """`applied` is called after the commit, `changes` inside the transaction."""
        self._messages, self._targets, self._applied, self._changes = messages, targets, applied, changes

    def work(self, conn: Transaction, nearby: object) -> None:
        """Make its rows. May be repeated after a rollback."""
        for each in self._messages:
            enter_message(conn, each, self._targets())
        self._changes()

    def finish(self) -> None:
        self._applied()

    def as_odd(self) -> Hl7Entry:
        """The entry that keeps and parks these messages, which cannot be entered as they are."""
        return OddHl7Entry(self._messages, self._targets, self._applied, self._changes)


class OddHl7Entry(Hl7Entry):
    """A frame that meets a fault of ours: its messages are parked."""

    def work(self, conn: Transaction, nearby: object) -> None:
        for each in self._messages:
            if hl7_messages.find_same(conn, each.received) is None:
                number = hl7_messages.enter_received(conn, each.received, each.data, time.time())
                _park(conn, number, each, MessageOutcome(MessageState.PARKED, UNEXPECTED), [])
        log.critical("a record of HL7 meets a fault of the gateway, and is parked: edge hl7 list --state parked")


def enter_message(conn: Transaction, each: IncomingMessage, targets: Mapping[str, Relay]) -> None:
    """Enter a message and what it changes."""
    received, message = each.received, each.message
    known = hl7_messages.find_same(conn, received)
    if known is not None:
        number, is_this_one = known
        return None if is_this_one else hl7_messages.note_repeat(conn, number, received)
    notes = _notes_of(conn, each)
    number = hl7_messages.enter_received(conn, received, each.data, time.time())
    source = ChangeSource(received.received_at, received.feed, number)
    _note_findings(conn, notes, source)
    fault = find_fault(message, received.authority)
    if fault is not None:
        outcome = MessageOutcome(
            MessageState.REFUSED, f"{fault.answer} {fault.code}", _place(fault.segment, fault.field)
        )
        _settle(conn, number, received, replace(outcome, notes=notes))
        return None
    identifiers = _identifier_keys(conn, message, received.authority)
    outcome = _apply(conn, number, message, received.authority, source, identifiers)
    outcome = replace(outcome, notes=(*notes, *outcome.notes))
    if outcome.state is MessageState.PARKED:
        _park(conn, number, each, outcome, identifiers)
    else:
        _settle(conn, number, received, outcome)
    owed = [name for name, relay in targets.items() if is_wanted(relay, message, received.feed)]
    relays.enqueue_message(conn, owed, number, identifiers)
    if not owed and outcome.state is not MessageState.PARKED and received.size > KEPT_BODY_BYTES:
        hl7_messages.drop_body(conn, number)
    return None


def is_wanted(relay: Relay, message: Hl7Message, feed: str) -> bool:
    """Does a message go to a relay?"""
    return (not relay.messages or message.type in relay.messages) and (not relay.feeds or feed in relay.feeds)


def _place(segment: str, number: int) -> str:
    return f"{segment}-{number}" if number else segment


def _notes_of(conn: Transaction, each: IncomingMessage) -> tuple[str, ...]:
    message = each.message
    notes = []
    if message.control_id and hl7_messages.has_control_id(conn, each.received):
        notes.append(CONTROL_ID_REUSED)
    if message.is_in_doubt:
        notes.append(CHARSET_WRONG)
    if message.is_guessed:
        notes.append(CHARSET_GUESSED)
    return tuple(notes)


def _note_findings(conn: Transaction, notes: Sequence[str], source: ChangeSource) -> None:
    for kind in (CONTROL_ID_REUSED, CHARSET_WRONG):
        if kind in notes:
            identity_findings.note_finding(conn, kind, source.feed, source.feed, source.message_id, source.at)


def _settle(conn: Transaction, number: int, received: ReceivedMessage, outcome: MessageOutcome) -> None:
    hl7_messages.set_outcome(conn, number, outcome, time.time())
    states = (hl7_messages.ALL_RECEIVED, outcome.state.value)
    hl7_messages.count_message(conn, received.feed, states, received.received_at)


def _park(
    conn: Transaction, number: int, each: IncomingMessage, outcome: MessageOutcome, identifiers: Sequence[str]
) -> None:
    _settle(conn, number, each.received, outcome)
    hl7_messages.park_message(conn, number, identifiers)


def _identifier_keys(conn: Transaction, message: Hl7Message, authority: str) -> list[str]:
    return patient_identifiers.identifier_keys(conn, list_named_identifiers(message, authority))


# -- what a message does ----------------------------------------------------------------------------------------------


def _apply(
    conn: Transaction,
    number: int,
    message: Hl7Message,
    authority: str,
    source: ChangeSource,
    identifiers: Sequence[str],
) -> MessageOutcome:
    """Do what a message asks for; parked where it contradicts the catalog, or waits behind one that does."""
    kind = classify_event(message)
    if kind in (EventClass.RELAY_ONLY, EventClass.IGNORED):
        return MessageOutcome(MessageState(kind.value))
    behind = hl7_messages.find_blocking(conn, identifiers, number)
    if behind is not None:
        return MessageOutcome(MessageState.PARKED, hl7_messages.BEHIND_ANOTHER, behind_id=behind)
    found: list[MessageOutcome] = []
    error = try_work(conn, lambda: found.append(_HANDLERS[kind](conn, message, authority, source)))
    if isinstance(error, Contradiction):
        return MessageOutcome(MessageState.PARKED, error.code)
    if error is not None:
        raise error
    return found[-1]


def _outcome(conn: Transaction, changes: Changes, notes: Sequence[str] = ()) -> MessageOutcome:
    identity_checks.queue_patients(conn, changes.patients)
    state = MessageState.APPLIED if changes.is_changed else MessageState.UNCHANGED
    return MessageOutcome(state, notes=(*notes, *changes.notes))


def _update(conn: Transaction, message: Hl7Message, authority: str, source: ChangeSource) -> MessageOutcome:
    pid = message.first("PID")
    assert pid is not None
    facts = read_patient_facts(pid, is_in_doubt=message.is_in_doubt)
    changes = known_patients.update_patient(conn, list_identifiers(pid, 3, authority), facts, source)
    return _outcome(conn, changes, facts.notes)


def _merge(conn: Transaction, message: Hl7Message, authority: str, source: ChangeSource) -> MessageOutcome:
    """Every pair of it, or none."""
    all_changes = Changes.none()
    is_new_number = classify_event(message) is EventClass.CHANGE_NUMBER
    for pair in list_merges(message, authority):
        changes = known_patients.merge_patients(conn, pair, source, is_new_number=is_new_number)
        all_changes.patients |= changes.patients
        all_changes.notes += changes.notes
        all_changes.is_changed |= changes.is_changed
    return _outcome(conn, all_changes)


def _move_account(conn: Transaction, message: Hl7Message, authority: str, source: ChangeSource) -> MessageOutcome:
    """Which orders and images go along, a person must say; where there are none, it concerns nobody here."""
    numbers = [each.number for each in list_named_identifiers(message, authority)]
    if identity_checks.has_orders_or_images(conn, numbers):
        raise Contradiction(ACCOUNT_MOVED)
    return MessageOutcome(MessageState.RELAY_ONLY)


def _order(conn: Transaction, message: Hl7Message, authority: str, source: ChangeSource) -> MessageOutcome:
    groups = [each for each in list_order_groups(message) if is_known_control(each)]
    pid = message.first("PID")
    if not groups or pid is None:
        return MessageOutcome(MessageState.IGNORED)
    identifiers = list_identifiers(pid, 3, authority)
    facts = read_patient_facts(pid, is_in_doubt=message.is_in_doubt)
    changes = known_patients.update_patient(conn, identifiers, facts, source)
    patient = patient_identifiers.find_first(conn, identifiers)
    for group in groups:
        numbers, is_changed, notes = order_entry.enter_order(conn, group, patient, source)
        changes.notes += notes
        changes.is_changed |= is_changed
        for number in numbers:
            identity_checks.queue_order(conn, number)
    return _outcome(conn, changes, facts.notes)


_HANDLERS: dict[EventClass, Callable[[Transaction, Hl7Message, str, ChangeSource], MessageOutcome]] = {
    EventClass.UPDATE: _update,
    EventClass.MERGE: _merge,
    EventClass.CHANGE_NUMBER: _merge,
    EventClass.MOVE_ACCOUNT: _move_account,
    EventClass.ORDER: _order,
}


# -- what people decide -----------------------------------------------------------------------------------------------


def replay_message(conn: Transaction, number: int, charsets: Mapping[str, str]) -> MessageOutcome | None:
    """Apply a parked message, or read texts again whose character set was in doubt. None: it cannot be done.

    Those that waited behind it follow, each that nothing else holds up. `charsets`: of each feed, as it is now.
    """
    kept = hl7_messages.read_kept(conn, number)
    if kept is None or kept.body is None:
        return None
    source = ChangeSource(kept.received_at, kept.feed, kept.id)
    if kept.state is not MessageState.PARKED:
        return _read_again(conn, kept, charsets, source) if CHARSET_WRONG in kept.notes else None
    outcome = _apply_parked(conn, charsets, kept, source)
    if outcome.state is not MessageState.PARKED:
        release_waiting(conn, charsets)
    return outcome


def _apply_parked(
    conn: Transaction, charsets: Mapping[str, str], kept: hl7_messages.KeptMessage, source: ChangeSource
) -> MessageOutcome:
    message = parse_message(kept.body or b"", charsets.get(kept.feed, ""))
    identifiers = _identifier_keys(conn, message, kept.authority)
    outcome = _apply(conn, kept.id, message, kept.authority, source, identifiers)
    outcome = replace(outcome, notes=(*kept.notes, *outcome.notes))
    hl7_messages.set_outcome(conn, kept.id, outcome, time.time())
    if outcome.state is not MessageState.PARKED:
        hl7_messages.unpark_message(conn, kept.id)
        hl7_messages.count_change(conn, kept.feed, MessageState.PARKED, outcome.state, kept.received_at)
    return outcome


def release_waiting(conn: Transaction, charsets: Mapping[str, str]) -> None:
    """Apply, in their order, those that nothing holds up any more."""
    for number in hl7_messages.list_waiting_behind(conn):
        kept = hl7_messages.read_kept(conn, number)
        if kept is not None and kept.body is not None:
            _apply_parked(conn, charsets, kept, ChangeSource(kept.received_at, kept.feed, kept.id))


def _read_again(
    conn: Transaction, kept: hl7_messages.KeptMessage, charsets: Mapping[str, str], source: ChangeSource
) -> MessageOutcome | None:
    """The feed's character set goes before MSH-18 here: that one was wrong."""
    message = parse_message(kept.body or b"", charsets.get(kept.feed, ""), prefers_default=True)
    if message.is_in_doubt:
        return None
    patients, corrected = set[int](), set[int]()
    for pid in reversed(list(message.all("PID"))):  # of several about one patient the last one counts
        identifiers = list_identifiers(pid, 3, kept.authority)
        patients |= known_patients.correct_name(conn, identifiers, read_patient_facts(pid), source)
    identity_checks.queue_patients(conn, patients)
    for group in list_order_groups(message) if classify_event(message) is EventClass.ORDER else ():
        corrected |= order_entry.correct_texts(conn, group, source)
    for number in corrected:
        identity_checks.queue_order(conn, number)
    notes = tuple(code for code in kept.notes if code != CHARSET_WRONG)
    outcome = MessageOutcome(MessageState.APPLIED if patients or corrected else MessageState.UNCHANGED, notes=notes)
    hl7_messages.set_outcome(conn, kept.id, outcome, time.time())
    return outcome


# -- from the journal -------------------------------------------------------------------------------------------------


def make_hl7_entry(
    record: JournalRecord, targets: RelaysOf, applied: Callable[[], None], changes: Callable[[], None]
) -> Hl7Entry:
    """Raises BodyDamaged, Hindered or StorageUnhealthy."""
    frame = hl7_frame.decode(record.head.facts)
    return Hl7Entry(read_frame(record.identity.name, frame, read_small_body(record)), targets, applied, changes)
