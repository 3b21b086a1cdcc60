"""Patients, merges and orders, as a message states them (HL7 v2.x chapters 3 and 4, IHE RAD-2, RAD-4). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from edge.hl7.message import Hl7Message, Segment
from edge.hl7.names import NAME_CHANGED, person_name
from edge.identity.hl7_facts import Authority, Identifier, MergePair, OrderFacts, PatientFacts
from edge.identity.order import OrderStatus
from edge.model import Priority

#: Types (CX-5) that number an account or a visit, and no patient.
_NO_PATIENT = frozenset({"AN", "VN", "ANON", "ANC", "ANT"})
_SEX = {"M": "M", "F": "F", "O": "O", "A": "O", "N": "O", "X": "O", "U": ""}
_UID = re.compile(r"[0-9][0-9.]{0,63}")


# -- patients ---------------------------------------------------------------------------------------------------------


def list_identifiers(segment: Segment, number: int, authority: str = "") -> tuple[Identifier, ...]:
    """List the identifiers of a CX field. `authority`: of those that name none."""
    found = [_identifier(segment, each, authority) for each in segment.repetitions(number)]
    named = [each for each in found if each.number]
    return tuple(dict.fromkeys([each for each in named if each.type not in _NO_PATIENT] or named))


def _identifier(segment: Segment, components: Sequence[str], default: str) -> Identifier:
    given = Authority(*(segment.leaf(components, 4, sub) for sub in (1, 2, 3)))
    authority = given if given.is_named else Authority.parse(default)
    until = _day(segment.leaf(components, 8)) or ""
    return Identifier(segment.leaf(components, 1), authority, segment.leaf(components, 5).upper(), until)


def patient_facts(pid: Segment, *, is_in_doubt: bool = False) -> PatientFacts:
    """The demographics of a PID. In doubt is a name alone that is not plain ASCII."""
    name, is_changed = person_name(pid, 5)
    notes = (NAME_CHANGED,) if is_changed else ()
    said: str | None = "" if pid.is_null(5) else (name or None)
    return PatientFacts(said, _birth_date(pid), _sex(pid), is_in_doubt and not name.isascii(), notes)


def _birth_date(pid: Segment) -> str | None:
    """The first eight digits, where they are a day; a year or a month alone says nothing."""
    return "" if pid.is_null(7) else _day(pid.text(7))


def _sex(pid: Segment) -> str | None:
    return "" if pid.is_null(8) else _SEX.get(pid.text(8).upper())


def _day(text: str) -> str | None:
    try:
        return f"{date(int(text[:4]), int(text[4:6]), int(text[6:8])):%Y%m%d}".zfill(8) if text[:8].isdigit() else None
    except ValueError:
        return None


def list_merges(message: Hl7Message, authority: str) -> list[MergePair]:
    """List the pairs of PID and MRG in their order."""
    found: list[MergePair] = []
    pid: Segment | None = None
    for segment in message.segments:
        if segment.id == "PID":
            pid = segment
        elif segment.id == "MRG" and pid is not None:
            facts = patient_facts(pid, is_in_doubt=message.is_in_doubt)
            old, new = list_identifiers(segment, 1, authority), list_identifiers(pid, 3, authority)
            found.append(MergePair(new, old, facts))
    return found


def list_named_identifiers(message: Hl7Message, authority: str) -> list[Identifier]:
    """List every identifier that a message names, in PID-3 and MRG-1."""
    places = {"PID": 3, "MRG": 1}
    found = [
        each
        for segment in message.segments
        if segment.id in places
        for each in list_identifiers(segment, places[segment.id], authority)
    ]
    return list(dict.fromkeys(found))


# -- orders -----------------------------------------------------------------------------------------------------------

#: ORC-1 -> the status that it sets; None: it sets none by itself.
_CONTROLS = {
    "NW": OrderStatus.OPEN, "SN": OrderStatus.OPEN, "XO": None, "SC": None,
    "CA": OrderStatus.CANCELLED, "OC": OrderStatus.CANCELLED, "DC": OrderStatus.CANCELLED,
}  # fmt: skip
#: ORC-5 of a status change (table 0038).
_STATUSES = {
    "IP": OrderStatus.IN_PROGRESS, "A": OrderStatus.IN_PROGRESS, "CM": OrderStatus.COMPLETED,
    "CA": OrderStatus.CANCELLED, "DC": OrderStatus.CANCELLED, "SC": OrderStatus.OPEN, "HD": OrderStatus.OPEN,
}  # fmt: skip
_PRIORITIES = {"S": Priority.STAT, "A": Priority.URGENT, "R": Priority.ROUTINE, "T": Priority.URGENT}
_PRIORITIES |= {"STAT": Priority.STAT, "ASAP": Priority.URGENT, "ROUTINE": Priority.ROUTINE}


@dataclass(frozen=True, slots=True)
class _Group:
    """The segments of one order."""

    orc: Segment | None
    obr: Segment | None = None
    others: dict[str, Segment] = field(default_factory=dict)


def list_order_groups(message: Hl7Message) -> list[OrderFacts]:
    """List the orders of a message: each OBR, or ORC without one, and each further IPC of it."""
    pv1 = message.first("PV1")
    referring = person_name(pv1, 8, first=2)[0] if pv1 else ""
    found = _share_study([_order_facts(group, referring) for group in _split_groups(message)])
    if message.is_in_doubt:
        found = [replace(each, is_in_doubt=not _is_ascii(each)) for each in found]
    return found


def _share_study(found: list[OrderFacts]) -> list[OrderFacts]:
    """Give each step of a procedure the study that only its last step names: one ZDS ends them (IHE RAD-4)."""
    for at in range(len(found) - 2, -1, -1):
        each, following = found[at], found[at + 1]
        procedures = {(one.accession, one.procedure_id) for one in (each, following)}
        if not each.study_uid and len(procedures) == 1 and any(procedures.pop()):
            found[at] = replace(each, study_uid=following.study_uid)
    return found


def _is_ascii(facts: OrderFacts) -> bool:
    return all(text.isascii() for text in (facts.procedure_text, facts.physician, facts.referring_physician))


def _split_groups(message: Hl7Message) -> Iterator[_Group]:
    group: _Group | None = None
    for segment in message.segments:
        if segment.id == "ORC":
            if group is not None:
                yield group
            group = _Group(segment)
        elif segment.id == "OBR":
            if group is not None and group.obr is not None:
                yield group
                group = _Group(group.orc)
            group = _Group(group.orc if group else None, segment, dict(group.others) if group else {})
        elif segment.id in ("TQ1", "ZDS", "IPC") and group is not None:
            if segment.id == "IPC" and "IPC" in group.others:
                yield group
            group = _Group(group.orc, group.obr, {**group.others, segment.id: segment})
    if group is not None:
        yield group


def _order_facts(group: _Group, referring: str) -> OrderFacts:
    orc, obr, tq1 = group.orc, group.obr, group.others.get("TQ1")
    ipc, zds = group.others.get("IPC"), group.others.get("ZDS")

    def first(*places: tuple[Segment | None, int, int]) -> str:
        return next(filter(None, (each.text(number, part) for each, number, part in places if each)), "")

    control = first((orc, 1, 1)).upper() or "NW"
    code = 44 if obr is not None and obr.text(44) else 4
    study = first((ipc, 3, 1), (zds, 1, 1))
    priority = first((tq1, 9, 1), (orc, 7, 6), (obr, 27, 6), (obr, 5, 1)).upper()
    return OrderFacts(
        control=control,
        status=_STATUSES.get(first((orc, 5, 1)).upper()) if control == "SC" else _CONTROLS.get(control),
        accession=first((ipc, 1, 1), (obr, 18, 1)),
        issuer=first((ipc, 1, 2), (obr, 18, 2)),
        placer_number=first((orc, 2, 1), (obr, 2, 1)),
        filler_number=first((orc, 3, 1), (obr, 3, 1)),
        study_uid=study if _UID.fullmatch(study) else "",
        procedure_id=first((ipc, 2, 1), (obr, 19, 1)),
        step_id=first((ipc, 4, 1), (obr, 20, 1)),
        procedure_code=first((obr, code, 1)),
        procedure_scheme=first((obr, code, 3)),
        procedure_text=first((obr, code, 2)),
        station_ae=first((ipc, 9, 1)),
        station_name=first((ipc, 7, 1)),
        modality=first((ipc, 5, 1), (obr, 24, 1)).upper(),
        scheduled_at=_moment(first((tq1, 7, 1), (orc, 7, 4), (obr, 27, 4), (obr, 36, 1))),
        priority=_PRIORITIES.get(priority),
        physician=_technician(obr),
        referring_physician=referring or (person_name(obr, 16, first=2)[0] if obr else ""),
    )


def is_known_control(facts: OrderFacts) -> bool:
    """Is ORC-1 one that changes an order here?"""
    return facts.control in _CONTROLS


def _technician(obr: Segment | None) -> str:
    """OBR-34 (NDL): the name is in subcomponents (IHE RAD-4)."""
    if obr is None or not (found := obr.repetitions(34)):
        return ""
    parts = [obr.leaf(found[0], 1, sub) for sub in (2, 3, 4)]
    return "^".join(part.replace("^", " ").replace("=", " ").replace("\\", " ") for part in parts).rstrip("^")


def _moment(text: str) -> str:
    """YYYYMMDD, with HHMM or HHMMSS where it is there; without a time zone, as DICOM's scheduled times are."""
    match = re.match(r"\d{8}(?:\d{4}(?:\d{2})?)?", text)
    found = match[0] if match else ""
    return found if _day(found) else ""
