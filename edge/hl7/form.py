"""The answer to a message by its form alone (HL7 v2.x section 2.9, tables 0008 and 0357). Pure.

What contradicts the catalog is no question here: such a message is in custody, is answered AA, and is parked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edge.hl7.extraction import list_identifiers, list_merges, list_order_groups
from edge.hl7.message import Hl7Message


class EventClass(str, Enum):
    """What an event asks for."""

    UPDATE = "update"
    MERGE = "merge"
    CHANGE_NUMBER = "change-number"
    MOVE_ACCOUNT = "move-account"
    LINK = "link"
    ORDER = "order"
    RELAY_ONLY = "relay-only"
    IGNORED = "ignored"


_ADT = {
    **dict.fromkeys(("A01", "A04", "A05", "A08", "A28", "A31"), EventClass.UPDATE),
    **dict.fromkeys(("A18", "A34", "A40", "A43"), EventClass.MERGE),
    "A47": EventClass.CHANGE_NUMBER,
    **dict.fromkeys(("A35", "A36", "A44", "A45"), EventClass.MOVE_ACCOUNT),
    **dict.fromkeys(("A24", "A37"), EventClass.LINK),
}
_ORDERS = frozenset({("ORM", "O01"), ("OMG", "O19"), ("OMI", "O23")})


def classify_event(message: Hl7Message) -> EventClass:
    if message.type == "ADT":
        return _ADT.get(message.trigger, EventClass.IGNORED)
    if (message.type, message.trigger) in _ORDERS or message.type == "ORM":
        return EventClass.ORDER
    return EventClass.RELAY_ONLY if message.type in ("ORU", "SIU") else EventClass.IGNORED


@dataclass(frozen=True, slots=True)
class FormFault:
    """Why a message is refused. `code`: HL7 table 0357. The words name no value."""

    answer: str  # AE | AR
    code: int
    segment: str
    field: int
    words: str


SEGMENT_SEQUENCE, FIELD_MISSING, UNSUPPORTED_EVENT, DUPLICATE_KEY = 100, 101, 201, 205
_NO_HEADER = FormFault("AR", SEGMENT_SEQUENCE, "MSH", 0, "The message has no MSH segment")


def find_fault(message: Hl7Message, authority: str = "") -> FormFault | None:
    """Find why a message must be refused; None: it is taken. `authority`: the feed's, for what names none."""
    if message.header is None:
        return _NO_HEADER
    if not message.type:
        return _missing("MSH", 9, "AR")
    if not message.control_id:
        return _missing("MSH", 10, "AR")
    kind = classify_event(message)
    if kind is EventClass.LINK:
        return FormFault("AE", UNSUPPORTED_EVENT, "MSH", 9, "Links between patients are not kept")
    if kind in (EventClass.RELAY_ONLY, EventClass.IGNORED):
        return None
    return _find_patient_fault(message) or _find_fault_of(kind, message, authority)


def _missing(segment: str, number: int, answer: str = "AE") -> FormFault:
    return FormFault(answer, FIELD_MISSING, segment, number, f"{segment}-{number} is required and empty")


def _no_segment(segment: str) -> FormFault:
    return FormFault("AE", SEGMENT_SEQUENCE, segment, 0, f"The message has no {segment} segment")


def _find_patient_fault(message: Hl7Message) -> FormFault | None:
    found = list(message.all("PID"))
    if not found:
        return _no_segment("PID")
    return None if all(list_identifiers(each, 3) for each in found) else _missing("PID", 3)


def _find_fault_of(kind: EventClass, message: Hl7Message, authority: str) -> FormFault | None:
    if kind is EventClass.ORDER:
        return _find_order_fault(message)
    if kind in (EventClass.MERGE, EventClass.CHANGE_NUMBER):
        return _find_merge_fault(message, authority)
    return None


def _find_merge_fault(message: Hl7Message, authority: str) -> FormFault | None:
    if message.first("MRG") is None:
        return _no_segment("MRG")
    for pair in list_merges(message, authority):
        if not pair.old:
            return _missing("MRG", 1)
        if all(any(old.is_same(new) for new in pair.new) for old in pair.old):
            return FormFault("AE", DUPLICATE_KEY, "MRG", 1, "MRG-1 and PID-3 are the same identifier")
    return None


def _find_order_fault(message: Hl7Message) -> FormFault | None:
    groups = list_order_groups(message)
    if not groups:
        return _no_segment("ORC")
    if all(group.has_number for group in groups):
        return None
    words = "The order has no number: ORC-2, ORC-3, OBR-18, OBR-19, IPC-1 and the Study UID are empty"
    return FormFault("AE", FIELD_MISSING, "ORC", 2, words)
