"""The HL7 statement: message profiles (HL7 v2.x chapter 2B) of what is received and sent.

What an event does is asked of edge.hl7.form.classify_event; which fields are required is found by leaving each out of a
complete message, and asking edge.hl7.form.find_fault: so the statement cannot differ from what a sender is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edge import __version__
from edge.config.sections import Config
from edge.console.statements.document import Document, Section, TableOf
from edge.hl7.form import EventClass, FormFault, classify_event, find_fault
from edge.hl7.message import Hl7Message, parse_message

#: MSH-9 of messages that a gateway may be sent (HL7 tables 0003 and 0076).
_ADT_EVENTS = tuple(f"A{number:02}" for number in range(1, 63))
_SIU_EVENTS = tuple(f"S{number}" for number in range(12, 27))
HL7_EVENTS = (
    *(("ADT", each) for each in _ADT_EVENTS), ("ORM", "O01"), ("OMG", "O19"), ("OMI", "O23"), ("ORU", "R01"),
    *(("SIU", each) for each in _SIU_EVENTS), ("MDM", "T02"), ("DFT", "P03"), ("BAR", "P01"), ("QBP", "Q21"),
)  # fmt: skip
_EFFECTS = {
    EventClass.UPDATE: "the patient's numbers and demographics are those of the message",
    EventClass.MERGE: "the old number leads to the new patient",
    EventClass.CHANGE_NUMBER: "the number is replaced",
    EventClass.MOVE_ACCOUNT: "waits for a person where the account has orders or images",
    EventClass.LINK: "refused: links are not kept",
    EventClass.ORDER: "orders are made, changed or cancelled (ORC-1)",
    EventClass.RELAY_ONLY: "goes on to the relays; changes nothing here",
    EventClass.IGNORED: "acknowledged; goes on to the relays; changes nothing here",
}
_PATIENT = "PID|1||T1^^^MTF^MR||TEST^PATIENT||19700101|F"
_COMPLETE: dict[EventClass, tuple[str, ...]] = {
    EventClass.UPDATE: (_PATIENT,),
    EventClass.MERGE: (_PATIENT, "MRG|T2^^^MTF^MR"),
    EventClass.CHANGE_NUMBER: (_PATIENT, "MRG|T2^^^MTF^MR"),
    EventClass.MOVE_ACCOUNT: (_PATIENT, "MRG|T2^^^MTF^MR"),
    EventClass.ORDER: (_PATIENT, "ORC|NW|P1", "OBR|1"),
}


@dataclass(frozen=True, slots=True)
class ReadField:
    """A field that is read, what it is, and its attribute of edge.identity.hl7_facts."""

    segment: str
    field: int
    component: int
    meaning: str
    attribute: str


#: A test writes a value into each, and finds it in what is read.
FIELDS = (
    ReadField("PID", 3, 1, "patient's identifiers, with authority (CX-4) and type (CX-5)", "number"),
    ReadField("PID", 5, 1, "patient's name, by representation (XPN-8)", "name"),
    ReadField("PID", 7, 1, "birth date", "birth_date"),
    ReadField("PID", 8, 1, "sex", "sex"),
    ReadField("MRG", 1, 1, "the identifiers that are replaced", "number"),
    ReadField("PV1", 8, 2, "referring physician", "referring_physician"),
    ReadField("ORC", 1, 1, "order control", "control"),
    ReadField("ORC", 2, 1, "placer order number", "placer_number"),
    ReadField("ORC", 3, 1, "filler order number", "filler_number"),
    ReadField("ORC", 5, 1, "order status, where ORC-1 is SC", "status"),
    ReadField("ORC", 7, 4, "scheduled start", "scheduled_at"),
    ReadField("ORC", 7, 6, "priority", "priority"),
    ReadField("TQ1", 7, 1, "scheduled start", "scheduled_at"),
    ReadField("TQ1", 9, 1, "priority", "priority"),
    ReadField("OBR", 2, 1, "placer order number", "placer_number"),
    ReadField("OBR", 3, 1, "filler order number", "filler_number"),
    ReadField("OBR", 4, 1, "procedure code (OBR-44 before it)", "procedure_code"),
    ReadField("OBR", 4, 2, "procedure, in words", "procedure_text"),
    ReadField("OBR", 4, 3, "coding scheme", "procedure_scheme"),
    ReadField("OBR", 16, 2, "referring physician, where PV1-8 is empty", "referring_physician"),
    ReadField("OBR", 18, 1, "accession number (IHE RAD-4)", "accession"),
    ReadField("OBR", 19, 1, "requested procedure ID (IHE RAD-4)", "procedure_id"),
    ReadField("OBR", 20, 1, "scheduled procedure step ID (IHE RAD-4)", "step_id"),
    ReadField("OBR", 24, 1, "modality", "modality"),
    ReadField("OBR", 27, 4, "scheduled start", "scheduled_at"),
    ReadField("OBR", 36, 1, "scheduled start", "scheduled_at"),
    ReadField("IPC", 1, 1, "accession number, with issuer", "accession"),
    ReadField("IPC", 2, 1, "requested procedure ID", "procedure_id"),
    ReadField("IPC", 3, 1, "Study Instance UID", "study_uid"),
    ReadField("IPC", 4, 1, "scheduled procedure step ID", "step_id"),
    ReadField("IPC", 5, 1, "modality", "modality"),
    ReadField("IPC", 7, 1, "station name", "station_name"),
    ReadField("IPC", 9, 1, "station AE title", "station_ae"),
    ReadField("ZDS", 1, 1, "Study Instance UID (IHE RAD-4)", "study_uid"),
)


def build_message(kind: str, trigger: str, segments: Sequence[str], control_id: str = "1") -> bytes:
    """A message of this event in version 2.5.1."""
    head = f"MSH|^~\\&|HIS|MTF|EDGE|MTF|20260105080000||{kind}^{trigger}|{control_id}|P|2.5.1"
    return "".join(f"{each}\r" for each in (head, *segments)).encode()


@dataclass(frozen=True, slots=True)
class MessageProfile:
    """What one event does, and what it must have: (segment, field; 0: the segment) with the answer where it lacks."""

    kind: str
    trigger: str
    effect: EventClass
    answer: str
    required: tuple[tuple[str, int, str], ...]

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments of a complete message."""
        return _COMPLETE.get(self.effect, ())


Classify = Callable[[Hl7Message], EventClass]
FindFault = Callable[[Hl7Message], FormFault | None]


def list_profiles(classify: Classify = classify_event, faulted: FindFault = find_fault) -> list[MessageProfile]:
    """The profile of every event; the parameters are the gateway's own, and a test changes them."""
    return [_profile(kind, trigger, classify, faulted) for kind, trigger in HL7_EVENTS]


def _profile(kind: str, trigger: str, classify: Classify, faulted: FindFault) -> MessageProfile:
    effect = classify(parse_message(build_message(kind, trigger, ())))
    segments = _COMPLETE.get(effect, ())
    fault = faulted(parse_message(build_message(kind, trigger, segments)))
    lacking = (
        {} if fault else {place: faulted(parse_message(data)) for place, data in leave_out(kind, trigger, segments)}
    )
    required = tuple((*place, found.answer) for place, found in lacking.items() if found is not None)
    return MessageProfile(kind, trigger, effect, fault.answer if fault else "AA", required)


def leave_out(kind: str, trigger: str, segments: Sequence[str]) -> Iterator[tuple[tuple[str, int], bytes]]:
    """The same message without each of its segments, and without each of its fields; with what is left out."""
    for at, segment in enumerate(segments):
        name, *fields = segment.split("|")
        yield (name, 0), build_message(kind, trigger, (*segments[:at], *segments[at + 1 :]))
        for number, value in enumerate(fields, 1):
            if value:
                cut = "|".join((name, *fields[: number - 1], "", *fields[number:]))
                yield (name, number), build_message(kind, trigger, (*segments[:at], cut, *segments[at + 1 :]))


def make_hl7_statement(config: Config) -> Document:
    """The statement of a gateway with this configuration."""
    profiles = list_profiles()
    sections = (
        Section("1", "Overview", (_overview(config),), (_feeds(config), _relays(config))),
        Section("2", "Communication", (
            "MLLP (release 1): a frame is VT, a message or a batch (FHS, BHS), FS CR. TLS with the files of"
            " [tls]. Messages"
            " of one connection are answered in order; AA or CA means that the message is on stable storage.",
            "Versions 2.1 to 2.9 are read. Separators are those of MSH-1 and MSH-2. The character set is"
            " MSH-18's, else the"
            " feed's, else guessed; text in doubt changes no name.",
        )),
        Section("3", "Message profiles: receiver", ("What is not in the table is acknowledged, and goes on to"
            " the relays.",),
                (_events(profiles), _list_required(profiles))),
        Section("4", "Fields that are read", ("Usage R: required (see 3). RE: read where it has a value. All others are"
                " kept, and go on unchanged.",), (_fields(profiles),)),
        Section("5", "Acknowledgements", (), (_answers(),)),
        Section("6", "Message profiles: sender", ("Relays send what was received, byte for byte, in order, each"
            " after the"
                " acknowledgement of the one before. Edge makes no messages of its own but acknowledgements.",)),
    )  # fmt: skip
    facts = {
        "profiles": [
            {"event": f"{each.kind}^{each.trigger}", "effect": each.effect.value, "answer": each.answer,
             "required": [f"{segment}-{field}" if field else segment for segment, field, _ in each.required]}
            for each in profiles
        ],
    }  # fmt: skip
    return Document("HL7 conformance statement", "Edge", __version__, config.site.name, sections, facts)


def _overview(config: Config) -> str:
    ports = [f"port {config.hl7.port}"] if config.hl7.port else []
    ports += [f"port {config.hl7.tls_port} (TLS)"] if config.hl7.tls_port else []
    where = (
        f"It listens on {' and '.join(ports)}." if ports else "It is closed on this gateway: there is no [hl7] port."
    )
    return f"Edge receives HL7 v2 from feeds that are named by address, and sends it on to relays. {where}"


def _feeds(config: Config) -> TableOf:
    rows = tuple(
        (each.name, ", ".join(each.hosts), each.charset or "-", each.authority or "-") for each in config.feeds.values()
    )
    return TableOf(
        "Feeds", ("feed", "addresses", "character set where MSH-18 is empty", "authority where CX-4 is empty"), rows
    )


def _relays(config: Config) -> TableOf:
    rows = tuple(
        (each.name, f"{each.host}:{each.port}", ", ".join(each.messages) or "all") for each in config.relays.values()
    )
    return TableOf("Relays", ("relay", "address", "messages"), rows)


def _events(profiles: Sequence[MessageProfile]) -> TableOf:
    rows = tuple((f"{each.kind}^{each.trigger}", each.answer, _EFFECTS[each.effect]) for each in profiles)
    return TableOf("Events", ("MSH-9", "answer", "effect"), rows)


def _list_required(profiles: Sequence[MessageProfile]) -> TableOf:
    rows = dict.fromkeys(
        (each.effect.value, f"{segment}-{field}" if field else segment, answer)
        for each in profiles
        for segment, field, answer in each.required
    )
    return TableOf("What must be there (usage R)", ("effect", "segment or field", "answer without it"), tuple(rows))


def _fields(profiles: Sequence[MessageProfile]) -> TableOf:
    required = {(segment, field) for each in profiles for segment, field, _ in each.required}
    rows = tuple(
        (
            f"{each.segment}-{each.field}",
            str(each.component),
            "R" if (each.segment, each.field) in required else "RE",
            each.meaning,
        )
        for each in FIELDS
    )
    return TableOf("Fields", ("field", "component", "usage", "meaning"), rows)


def _answers() -> TableOf:
    rows = (
        ("AA", "original mode: the message is on stable storage, and its form is right"),
        ("AE", "its form is wrong: ERR names segment and field; do not repeat it"),
        ("AR", "it has no header, type or control ID"),
        ("CA, CE, CR", "the same in enhanced mode, where MSH-15 asks for it; AA follows where MSH-16 does"),
        ("none", "there is no room, or the storage has failed: repeat it"),
    )
    return TableOf("MSA-1 (HL7 table 0008)", ("code", "meaning"), rows)
