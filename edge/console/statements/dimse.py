"""Sections of the DICOM statement on DIMSE services (PS3.2 annex N), from the tables of edge.scp.services."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from edge.config.sections import Config, Destination
from edge.console.statements.accepted import PRIVATE, AcceptedSyntax
from edge.console.statements.document import Section, TableOf, absent
from edge.dicom.dialogue import STORE_ANSWER_SECONDS
from edge.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from edge.dicom.pdu import MAX_PDU_IN, MAX_PDU_OUT
from edge.dicom.performed_step import INSTANCE_AVAILABILITY_NOTIFICATION, MODALITY_PERFORMED_PROCEDURE_STEP
from edge.dicom.uids import (
    PATIENT_ROOT_FIND,
    STORAGE_COMMITMENT_PUSH,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
    name_of,
)
from edge.dicom.worklist import MODALITY_WORKLIST_FIND
from edge.query.levels import KEYWORDS_OF, Level
from edge.scp.services.echo import ECHO_SERVICE
from edge.scp.services.find import FIND_SERVICE
from edge.scp.services.get import GET_SERVICE
from edge.scp.services.move import MOVE_SERVICE
from edge.scp.services.mpps import STEP_CREATE_SERVICE
from edge.scp.services.storage_commitment import COMMITMENT_REQUEST_SERVICE
from edge.scp.services.store import STORE_SERVICE
from edge.scp.services.worklist import WORKLIST_SERVICE

_ECHO, _STORE, _FIND = ECHO_SERVICE.name, STORE_SERVICE.name, FIND_SERVICE.name
_COMMIT, _STEPS = COMMITMENT_REQUEST_SERVICE.name, STEP_CREATE_SERVICE.name
_WORKLIST, _GET, _MOVE = WORKLIST_SERVICE.name, GET_SERVICE.name, MOVE_SERVICE.name
_AVAILABILITY = "instance availability notification"
ANY_STORAGE = "as received"
_SYNTAXES = "explicit and implicit VR little endian"
#: DIMSE statuses that a provider answers: service, status, meaning (PS3.4; PS3.7 annex C).
_STATUSES = (
    ("C-STORE", "0000", "the object is on stable storage"),
    ("C-STORE", "A700", "no room, or the storage has failed; nothing was kept"),
    ("C-STORE", "C000", "the data set cannot be read or trusted; it is kept apart"),
    ("C-STORE", "0117, 0122", "no UID; no storage SOP class"),
    ("C-STORE, C-FIND, C-MOVE, C-GET", "0124", "not authorized"),
    ("N-ACTION (commitment)", "0000", "the request is on stable storage; its report follows on another association"),
    ("N-ACTION (commitment)", "0115, 0123, 0124, 0213", "invalid argument; no such action; not authorized; too many"),
    ("N-CREATE, N-SET (performed step)", "0000", "the message is on stable storage"),
    ("N-CREATE, N-SET (performed step)", "0106, 0120", "an attribute is invalid, or missing: the answer names it"),
    ("N-CREATE, N-SET (performed step)", "0110, 0111, 0112, 0117", "in its final state; another; unknown; no UID"),
    ("N-CREATE, N-SET (performed step)", "0213", "no room, or another message of the step is being taken"),
    ("C-FIND (worklist)", "FF00, FF01", "an answer; FF01: with keys that are not known here"),
    ("C-FIND (worklist)", "0000, FE00", "the end; cancelled"),
    ("C-FIND (worklist)", "A700, C001", "no list that is recent enough; the identifier cannot be read"),
    ("C-FIND (query)", "FF00, FF01", "an answer; FF01: with keys that are not known here"),
    ("C-FIND (query)", "0000, FE00", "the end; cancelled"),
    ("C-FIND (query)", "A700, A900, C001", "the archive did not answer, or the limit; no unique key; not read"),
    ("C-MOVE, C-GET", "FF00, 0000, FE00", "going on; all are sent; cancelled"),
    ("C-MOVE, C-GET", "B000, A702", "some failed; all failed: the Failed SOP Instance UID List has them"),
    ("C-MOVE, C-GET", "A701, A801, A900", "cannot be counted; destination unknown; no unique key"),
    ("N-EVENT-REPORT (commitment)", "0000", "the report of an archive is taken"),
    ("all", "0110, 0211, 0212", "a fault; unrecognized operation; mistyped argument"),
)  # fmt: skip


def list_proposed(config: Config) -> list[tuple[str, str, str]]:
    """What Edge proposes as a user: (destination or modality, service, SOP class UID; ANY_STORAGE: those received)."""
    found: list[tuple[str, str, str]] = []
    for each in config.destinations.values():
        if not each.is_web:
            found += [(each.name, *row) for row in _list_proposed_to(config, each)]
    found += [(name, _STEPS, MODALITY_PERFORMED_PROCEDURE_STEP) for name in config.mpps.to]
    found += [(name, _AVAILABILITY, INSTANCE_AVAILABILITY_NOTIFICATION) for name in config.mpps.ian]
    if config.worklist.from_:
        found.append((config.worklist.from_, _WORKLIST, MODALITY_WORKLIST_FIND))
    for modality in config.modalities.values():
        if modality.way_back and config.serves_queries:  # it may be named as a destination of C-MOVE
            found.append((modality.name, _STORE, ANY_STORAGE))
        if modality.way_back and "commit" in modality.services:
            found.append((modality.name, "reports of storage commitment", STORAGE_COMMITMENT_PUSH))
    return found


def _list_proposed_to(config: Config, destination: Destination) -> Iterator[tuple[str, str]]:
    """List what is proposed to a destination. A restore and a link test may use C-FIND, C-GET and C-MOVE with any."""
    yield from ((_ECHO, VERIFICATION), (_STORE, ANY_STORAGE), (_FIND, STUDY_ROOT_FIND))
    yield from ((_GET, STUDY_ROOT_GET), (_MOVE, STUDY_ROOT_MOVE))
    if destination.confirm == "commitment":
        yield _COMMIT, STORAGE_COMMITMENT_PUSH
    if config.serves_queries and destination.name in config.query.through:
        yield _FIND, PATIENT_ROOT_FIND


# -- 5.2 --------------------------------------------------------------------------------------------------------------


def describe_dimse_services(config: Config, callers: Mapping[str, Sequence[AcceptedSyntax]]) -> Iterator[Section]:
    """Section 5.2."""
    open_to = {name: {each.service for each in found} for name, found in callers.items()}

    def who(service: str) -> str:
        names = [name for name, found in open_to.items() if service in found]
        return f"As SCP: open to {', '.join(names)}." if names else "As SCP: open to nobody."

    def list_users(service: str) -> str:
        names = dict.fromkeys(name for name, each, _ in list_proposed(config) if each == service)
        return f"As SCU: to {', '.join(names)}." if names else "As SCU: not configured."

    yield Section("5.2.1", "Basic Worklist Management Service", (
        who(_WORKLIST), list_users(_WORKLIST), "The last complete list of its source is served, or one that is made of"
            " HL7 orders; a"
        f" list that is older than {config.worklist.keep / 3600:g} h is A700."))  # fmt: skip
    yield Section("5.2.2", "Modality Performed Procedure Step Service", (
        who(_STEPS), list_users(_STEPS), "N-CREATE and N-SET are taken at once, and go on in order, through any"
            " outage."))  # fmt: skip
    yield absent("5.2.3", "Unified Worklist and Procedure Step Service")
    yield Section("5.2.4", "Instance Availability Notification Service", (
        list_users(_AVAILABILITY), "Sent once each instance of a performed step is proved by an archive."))  # fmt: skip
    yield Section("5.2.5", "Storage Service", (
        who(_STORE), list_users(_STORE), "Objects are kept bit for bit. Other bytes under a known SOP Instance UID are"
            " kept beside the"
        " first, and held. A copy goes as received, else in another lossless transfer syntax."),
        sections=(_rejections(config),))  # fmt: skip
    yield Section("5.2.6", "Storage Commitment Service", (
        who(_COMMIT), list_users(_COMMIT), "The report goes on an association that Edge opens, or is awaited as long as"
            " the archive"
        " needs."))  # fmt: skip
    yield _query_retrieve(config, who, list_users)
    yield absent("5.2.8", "Print Management Service")


def _rejections(config: Config) -> Section:
    names = ", ".join(config.iocm.senders)
    text = (
        f"Rejection notes (Key Object Selection, CID 7011) of {names} are followed: what they name is found and"
        f" given no"
        " longer, and the notes go behind it to where it went."
        if names
        else "Rejection notes (Key Object Selection, CID 7011) are stored and forwarded as any object."
    )
    return Section("5.2.5.1", "Object Change Management (IHE IOCM)", (text,))


def _query_retrieve(config: Config, who: Callable[[str], str], list_users: Callable[[str], str]) -> Section:
    keys = tuple((level.name, ", ".join(KEYWORDS_OF[level])) for level in Level)
    table = TableOf("Keys that are matched and returned", ("level", "keys"), keys)
    extended = tuple(
        (each.name, name, "yes" if at < len(each.extended) and each.extended[at] else "no")
        for each in (FIND_SERVICE, GET_SERVICE, MOVE_SERVICE)
        for at, name in enumerate(("relational queries", "date-time as one range", "fuzzy names", "time zone"))
        if each is FIND_SERVICE or at == 0
    )
    joined = f"Answers are joined with those of {', '.join(config.query.through)}." if config.query.through else ""
    named = ((_FIND, "C-FIND"), (_GET, "C-GET"), (_MOVE, "C-MOVE"))
    users = [f"{command}. {who(each)} {list_users(each)}" for each, command in named]
    moves = "C-MOVE goes to any [destination], and to each [modality] that can be called back."
    text = (*users, moves, *filter(None, [joined]))
    headings = ("service", "extended negotiation", "supported")
    return Section(
        "5.2.7", "Query/Retrieve Service", text, (table, TableOf("Extended negotiation", headings, extended))
    )


# -- 7 ----------------------------------------------------------------------------------------------------------------


def describe_parameters(config: Config) -> Section:
    """Section 7.1.1."""
    rows = (
        ("Application context", "1.2.840.10008.3.1.1.1"),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION),
        ("Maximum PDU received", f"{MAX_PDU_IN:,} bytes"),
        ("Maximum PDU sent", f"{MAX_PDU_OUT:,} bytes, at most the peer's"),
        ("Asynchronous operations window", "not negotiated: one operation at a time"),
        ("Answer to C-STORE, as SCU", f"awaited for {STORE_ANSWER_SECONDS:g} s"),
        ("Unknown callers", "rejected" if config.listen.unknown == "refuse" else "admitted for echo and store"),
        ("Network", "TCP/IP, IPv4 and IPv6"),
    )
    return Section("7.1.1", "General Association Parameters", tables=(TableOf("Parameters", ("", "value"), rows),))


def describe_entity(config: Config, callers: Mapping[str, Sequence[AcceptedSyntax]]) -> Section:
    """Section 7.2.1."""
    title = config.listen.ae_title
    order = "An object is received, made durable, answered, routed, sent, and proved; each waits for the one before."
    return Section("7.2.1", f"Application Entity {title}", sections=(
        Section("7.2.1.1", "Sequencing of Real-World Activities", (order,)),
        Section("7.2.1.2", "Association Parameters", ("Those of 7.1.1. Roles: an archive that reports"
            " commitment, and who"
                " retrieves by C-GET, are granted the role of an SCP (PS3.7 D.3.3.4).",)),
        Section("7.2.1.3", "Association Initiation", ("One context for each pair of SOP class and transfer"
            " syntax that waits;"
                " each object ends by its own status.",), (_initiation(config),)),
        Section("7.2.1.4", "Association Acceptance", ("The first transfer syntax that a caller proposes is accepted.",),
                tuple(_acceptance(name, found) for name, found in callers.items())),
    ))  # fmt: skip


def _initiation(config: Config) -> TableOf:
    rows = tuple(
        (peer, "every SOP class that was received", ANY_STORAGE, "as received, else a lossless one")
        if uid == ANY_STORAGE
        else (peer, name_of(uid), uid, _SYNTAXES)
        for peer, _, uid in list_proposed(config)
    )
    return TableOf("Presentation contexts proposed, as SCU", ("peer", "SOP class", "UID", "transfer syntaxes"), rows)


def _acceptance(name: str, found: Sequence[AcceptedSyntax]) -> TableOf:
    rows = tuple(
        (name_of(each.abstract_syntax) if each.abstract_syntax != PRIVATE else "any other",
         each.abstract_syntax if each.abstract_syntax != PRIVATE else "any", each.service,
         "any" if each.transfer_syntaxes is None else ", ".join(map(name_of, each.transfer_syntaxes)))
        for each in found
    )  # fmt: skip
    headings = ("SOP class", "UID", "service", "transfer syntaxes")
    return TableOf(f"Presentation contexts accepted from [modality.{name}], as SCP", headings, rows)


def list_dimse_statuses() -> TableOf:
    """Section 7.3.2."""
    return TableOf("Statuses that are answered", ("message", "status", "meaning"), _STATUSES)
