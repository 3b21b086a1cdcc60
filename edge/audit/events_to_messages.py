"""What the ledger's rows say as audit messages: `TOLD` is the table, a line for each event. Pure.

The rows are the record; a message is made from them and from what the catalog knew of their study at that time.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge.audit import message as dicom
from edge.audit.message import Code, Message, Participant, Subject
from edge.audit.rows import ARRIVALS, Classes, PeerNode, Person, Row, StudyContext
from edge.dicom.commitment import STUDY_ROOT_FIND, find_identifier
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN
from edge.store import ledger
from edge.store.commitments import BY_QUERY

#: Of a row's detail, this much is repeated.
MAX_DETAIL = 300
#: Sections of the configuration that decide who is let in, and what is told to whom.
SECURITY_SECTIONS = frozenset({"audit", "console", "listen", "modality", "tls"})


@dataclass(frozen=True, slots=True)
class AuditSource:
    """The gateway itself, and the destinations that it knows."""

    ae_title: str
    host: str
    destinations: Mapping[str, PeerNode]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are told together, with their facts."""

    rows: Sequence[Row]
    facts: StudyContext
    here: AuditSource

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def last(self) -> Row:
        return self.rows[-1]

    @property
    def description(self) -> str:
        """Where the ledger has it: no other message says the same, so one that comes twice is recognised."""
        rows = f"row {self.first.seq}" if len(self.rows) == 1 else f"rows {self.first.seq} to {self.last.seq}"
        detail = self.first.detail if self.first.event not in ARRIVALS else ""
        return f"{self.first.event}; ledger {rows}" + (f"; {detail[:MAX_DETAIL]}" if detail else "")

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return self.subjects_of(self.facts.classes)

    def subjects_of(self, classes: Classes) -> tuple[Subject, ...]:
        """The study, of which so many instances are meant, and its patient."""
        told = self.facts
        study = dicom.study(told.study_uid, told.description, told.accession, classes)
        return study, *[dicom.patient(each.patient_id, each.name) for each in told.patients or (Person("", ""),)]


def messages_for(rows: Sequence[Row], facts: StudyContext, here: AuditSource) -> list[Message]:
    """The messages of one group; none for what is no event of the audit trail."""
    told = TOLD.get(rows[0].event)
    return list(told(Group(rows, facts, here))) if told else []


def _edge(here: AuditSource, role: Code | None = None, *, requestor: bool = False) -> Participant:
    return Participant(ledger.EDGE, requestor, role, here.ae_title, ledger.EDGE, here.host)


def _person(group: Group) -> Participant:
    """A login of this host (PS3.15 A.5.2.1: loginName@domain-name)."""
    who, address = group.first.who, address_in(group.first.detail)
    return Participant(who if "@" in who else f"{who}@{group.here.host}", True, name=who, address=address)


def _edge_or_person(group: Group) -> Participant:
    return _edge(group.here, requestor=True) if group.first.who == ledger.EDGE else _person(group)


def _peer(node: PeerNode, role: Code, *, requestor: bool = False) -> Participant:
    return Participant(node.ae_title, requestor, role, node.ae_title, address=node.address)


def _destination(group: Group, name: str, *, requestor: bool = False) -> Participant:
    return _peer(group.here.destinations.get(name, PeerNode(name, "")), dicom.DESTINATION, requestor=requestor)


def _arrived(group: Group, outcome: int = dicom.SUCCESS) -> Iterator[Message]:
    to = _edge(group.here, dicom.DESTINATION)
    for node, classes in group.facts.origins.items():
        sender = _peer(node, dicom.SOURCE, requestor=True)
        yield _message(group, dicom.INSTANCES_TRANSFERRED, dicom.CREATE, sender, to, outcome=outcome, classes=classes)


def _received(group: Group) -> Iterator[Message]:
    yield from _arrived(group)
    yield from _queued(group, group.facts.queued)


def _queued(group: Group, destinations: Iterable[str]) -> Iterator[Message]:
    """Instances are to go somewhere: told before they do (PS3.15 A.5.3.3)."""
    for name in destinations:
        classes = group.facts.queued.get(name)
        if classes:
            sender = _edge(group.here, dicom.SOURCE, requestor=True)
            to = _destination(group, name)
            yield _message(group, dicom.BEGIN_TRANSFERRING, dicom.EXECUTE, sender, to, classes=classes)


def _quarantined(group: Group) -> Iterator[Message]:
    yield from _arrived(group, dicom.MINOR_FAILURE)


def _sent(group: Group, outcome: int = dicom.SUCCESS) -> Iterator[Message]:
    """Whether the destination had them before is not ours to know: read (PS3.15 table A.5.3.7-1)."""
    sender = _edge(group.here, dicom.SOURCE, requestor=True)
    to = _destination(group, group.first.destination)
    yield _message(group, dicom.INSTANCES_TRANSFERRED, dicom.READ, sender, to, outcome=outcome)


def _denied(group: Group) -> Iterator[Message]:
    yield from _sent(group, dicom.MINOR_FAILURE)


def _held(group: Group) -> Iterator[Message]:
    """By the destination's refusal, or by a person."""
    if group.first.who in (ledger.EDGE, group.first.destination):
        yield from _sent(group, dicom.SERIOUS_FAILURE)
    else:
        yield from _handled(group)


def _confirmed(group: Group) -> Iterator[Message]:
    """A proof is no access; but one that was looked for was a query."""
    if group.first.detail == BY_QUERY:
        told = group.facts
        identifier = find_identifier(told.study_uid, "\\".join(told.series), (), IMPLICIT_VR_LITTLE_ENDIAN)
        asked = dicom.query(STUDY_ROOT_FIND, identifier, IMPLICIT_VR_LITTLE_ENDIAN)
        who = _edge(group.here, dicom.SOURCE, requestor=True), _destination(group, group.first.destination)
        yield _message(group, dicom.QUERY, dicom.EXECUTE, *who, subjects=(asked,))


def _handled(group: Group, action: str = dicom.UPDATE) -> Iterator[Message]:
    yield _message(group, dicom.INSTANCES_ACCESSED, action, _person(group), _edge(group.here))


def _sent_on(group: Group) -> Iterator[Message]:
    """A person has work sent (again)."""
    yield from _handled(group)
    yield from _queued(group, [group.first.destination] if group.first.destination else group.facts.queued)


def _exported(group: Group) -> Iterator[Message]:
    """A person took a copy away (PS3.15 A.5.3.6)."""
    yield _message(group, dicom.EXPORT, dicom.READ, _person(group), _edge(group.here, dicom.SOURCE))


def _viewed(group: Group) -> Iterator[Message]:
    yield from _handled(group, dicom.READ)


def _changed(group: Group) -> Iterator[Message]:
    yield _message(group, dicom.INSTANCES_ACCESSED, dicom.UPDATE, _edge(group.here, requestor=True))


def _evicted(group: Group) -> Iterator[Message]:
    event = dicom.INSTANCES_ACCESSED if group.facts.kept else dicom.STUDY_DELETED
    yield _message(group, event, dicom.DELETE, _edge(group.here, requestor=True))


def _alert(
    group: Group, kind: Code, outcome: int, *who: Participant, subjects: tuple[Subject, ...] = ()
) -> Iterator[Message]:
    about = dicom.alert_subject(group.here.host, group.first.detail or group.first.event)
    yield _message(
        group, dicom.SECURITY_ALERT, dicom.EXECUTE, *who, outcome=outcome, type=kind, subjects=(about, *subjects)
    )


def _lost(group: Group) -> Iterator[Message]:
    edge = _edge(group.here, requestor=True)
    yield from _alert(group, dicom.OBJECT_SECURITY, dicom.SERIOUS_FAILURE, edge, subjects=group.subjects)


def _recovered(group: Group) -> Iterator[Message]:
    yield from _alert(group, dicom.SOFTWARE_CONFIGURATION, dicom.SUCCESS, _edge_or_person(group))


def _refused(group: Group) -> Iterator[Message]:
    """A person who did not get in, or a node."""
    if group.first.detail.startswith("sign-in"):
        yield from _signed_in(group, dicom.MINOR_FAILURE)
    else:
        yield from _alert(group, dicom.NODE_AUTHENTICATION, dicom.MINOR_FAILURE, _edge(group.here), _caller(group))


def _caller(group: Group) -> Participant:
    who = group.first.who
    return Participant(who, True, name=who, address=address_in(group.first.detail))


def _overridden(group: Group) -> Iterator[Message]:
    subjects = group.subjects if group.first.study_id else ()
    yield from _alert(
        group, dicom.RESTRICTED_FUNCTION, dicom.SUCCESS, _person(group), _edge(group.here), subjects=subjects
    )
    if group.first.detail.startswith("instead of"):
        yield from _queued(group, [group.first.destination])


def _configured(group: Group) -> Iterator[Message]:
    outcome = dicom.MINOR_FAILURE if group.first.detail.startswith("rejected") else dicom.SUCCESS
    yield from _alert(group, _kind_of_change(group.first.detail), outcome, _edge_or_person(group))


def _kind_of_change(detail: str) -> Code:
    """`changed: modality.ct1.hosts, retention.keep`, or `account anna: viewer`."""
    if detail.startswith("account"):
        return dicom.USER_SECURITY
    sections = {key.partition(".")[0] for key in detail.partition(": ")[2].split(", ")}
    return dicom.SECURITY_CONFIGURATION if sections & SECURITY_SECTIONS else dicom.SOFTWARE_CONFIGURATION


def _signed_in(group: Group, outcome: int = dicom.SUCCESS) -> Iterator[Message]:
    kind = dicom.LOGOUT if group.first.detail.startswith("signed out") else dicom.LOGIN
    who = _caller(group), _edge(group.here)
    yield _message(group, dicom.USER_AUTHENTICATION, dicom.EXECUTE, *who, outcome=outcome, type=kind, subjects=())


def _reported(group: Group) -> Iterator[Message]:
    log = dicom.audit_log("edge:ledger")
    yield _message(group, dicom.AUDIT_LOG_USED, dicom.READ, _person(group), subjects=(log,))


def _activity(application: Code, network: Code) -> Teller:
    def told(group: Group) -> Iterator[Message]:
        started = _edge(group.here, dicom.APPLICATION)
        node = Participant(group.here.host, address=group.here.host)
        yield _message(group, dicom.APPLICATION_ACTIVITY, dicom.EXECUTE, started, type=application, subjects=())
        yield _message(group, dicom.NETWORK_ENTRY, dicom.EXECUTE, node, type=network, subjects=())

    return told


def _message(
    group: Group,
    event: Code,
    action: str,
    *who: Participant,
    outcome: int = dicom.SUCCESS,
    type: Code | None = None,
    classes: Classes | None = None,
    subjects: tuple[Subject, ...] | None = None,
) -> Message:
    """Told of the study and its patient unless `subjects` says otherwise. A transfer has the time of its last image."""
    if subjects is None:
        subjects = group.subjects_of(group.facts.classes if classes is None else classes)
    at = group.first.at if event is dicom.BEGIN_TRANSFERRING else group.last.at
    return Message(event, action, at, outcome, type, group.description, who, subjects)


def address_in(detail: str) -> str:
    """The address that a detail names: `from 10.1.2.3: ...`, `..., from ::1`."""
    for word in re.findall(r"\bfrom (\S+)", detail):
        try:
            return str(ipaddress.ip_address(re.sub(r"[:,;]$", "", word)))
        except ValueError:
            continue
    return ""


Teller = Callable[[Group], Iterator[Message]]

#: Ledger event -> what is told of it. What is absent is not told: that a route was chosen is no access.
TOLD: dict[str, Teller] = {
    ledger.STARTED: _activity(dicom.APPLICATION_START, dicom.ATTACH),
    ledger.STOPPED: _activity(dicom.APPLICATION_STOP, dicom.DETACH),
    ledger.RECEIVED: _received,
    ledger.ADOPTED: _received,
    ledger.CONFLICT: _received,
    ledger.QUARANTINED: _quarantined,
    ledger.REFUSED: _refused,
    ledger.SENT: _sent,
    ledger.CONFIRMED: _confirmed,
    ledger.DENIED: _denied,
    ledger.HELD: _held,
    ledger.RELEASED: _sent_on,
    ledger.RETRIED: _sent_on,
    ledger.ADMITTED: _handled,
    ledger.DISCARDED: _handled,
    ledger.DELETED: _evicted,
    ledger.EXPORTED: _exported,
    ledger.CHANGED: _changed,
    ledger.REPAIRED: _changed,
    ledger.EVICTED: _evicted,
    ledger.LOST: _lost,
    ledger.RECOVERED: _recovered,
    ledger.VIEWED: _viewed,
    ledger.OVERRIDDEN: _overridden,
    ledger.ROUTED: lambda group: _queued(group, [group.first.destination]),
    ledger.CANCELLED: _overridden,
    ledger.SETTLED: _overridden,
    ledger.SIGNED_IN: _signed_in,
    ledger.CONFIGURED: _configured,
    ledger.REPORTED: _reported,
}
