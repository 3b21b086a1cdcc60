"""Rows of the ledger as audit messages: `REPORTERS` is the table, a line for each event. Pure.

The rows are the record; a message is made from them and from what the catalog knew of their study at that time.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge.dicom.commitment import find_identifier
from edge.dicom.uids import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_MOVE,
)
from edge.dicom.worklist import MODALITY_WORKLIST_FIND
from edge.messaging.audit import message as dicom
from edge.messaging.audit.message import AuditMessage, Code, Participant, Subject
from edge.messaging.audit.rows import ARRIVAL_EVENTS, Classes, PeerNode, Person, StudyContext, TrailRow
from edge.store import ledger
from edge.store.ledger import Payload
from edge.store.performed_steps import IN_PROGRESS

#: Of a row's words, this much is repeated.
MAX_WORDS = 300
#: Sections of the configuration that decide who is admitted, and what is sent where.
SECURITY_SECTIONS = frozenset({"audit", "console", "listen", "modality", "tls"})


@dataclass(frozen=True, slots=True)
class AuditSource:
    """The gateway itself, and the destinations that it knows."""

    ae_title: str
    host: str
    destinations: Mapping[str, PeerNode]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of one message, with their facts."""

    rows: Sequence[TrailRow]
    facts: StudyContext
    here: AuditSource

    @property
    def first(self) -> TrailRow:
        return self.rows[0]

    @property
    def last(self) -> TrailRow:
        return self.rows[-1]

    @property
    def description(self) -> str:
        """Where the ledger has it: no other message says the same, so one that comes twice is recognised."""
        rows = f"row {self.first.seq}" if len(self.rows) == 1 else f"rows {self.first.seq} to {self.last.seq}"
        words = self.first.words if self.first.event not in ARRIVAL_EVENTS else ""
        return f"{self.first.event}; ledger {rows}" + (f"; {words[:MAX_WORDS]}" if words else "")

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return self.subjects_of(self.facts.classes)

    def subjects_of(self, classes: Classes) -> tuple[Subject, ...]:
        """The study, with the number of its instances, and its patient."""
        facts = self.facts
        study = dicom.study_subject(facts.study_uid, facts.description, facts.accession, classes)
        return study, *[
            dicom.patient_subject(each.patient_id, each.name) for each in facts.patients or (Person("", ""),)
        ]


def messages_for(rows: Sequence[TrailRow], facts: StudyContext, here: AuditSource) -> list[AuditMessage]:
    """The messages of one group; none for what is no event of the audit trail."""
    report = REPORTERS.get(rows[0].event)
    return list(report(RowGroup(rows, facts, here))) if report else []


def _edge(here: AuditSource, role: Code | None = None, *, requestor: bool = False) -> Participant:
    return Participant(ledger.EDGE, requestor, role, here.ae_title, ledger.EDGE, here.host)


def _person(group: RowGroup) -> Participant:
    """A login of this host (PS3.15 A.5.2.1: loginName@domain-name)."""
    who, address = group.first.who, address_of(group.first.payload)
    return Participant(who if "@" in who else f"{who}@{group.here.host}", True, name=who, address=address)


def _edge_or_person(group: RowGroup) -> Participant:
    return _edge(group.here, requestor=True) if group.first.who == ledger.EDGE else _person(group)


def _peer(node: PeerNode, role: Code, *, requestor: bool = False) -> Participant:
    return Participant(node.ae_title, requestor, role, node.ae_title, address=node.address)


def _destination(group: RowGroup, name: str) -> Participant:
    return _peer(group.here.destinations.get(name, PeerNode(name, "")), dicom.DESTINATION)


def _report_arrival(group: RowGroup, outcome: int = dicom.SUCCEEDED) -> Iterator[AuditMessage]:
    to = _edge(group.here, dicom.DESTINATION)
    for node, classes in group.facts.origins.items():
        sender = _peer(node, dicom.SOURCE, requestor=True)
        yield _message(
            group, dicom.INSTANCES_TRANSFERRED, dicom.CREATE_ACTION, sender, to, outcome=outcome, classes=classes
        )


def _report_reception(group: RowGroup) -> Iterator[AuditMessage]:
    yield from _report_arrival(group)
    yield from _report_queueing(group, group.facts.queued)


def _report_queueing(group: RowGroup, destinations: Iterable[str]) -> Iterator[AuditMessage]:
    """Instances are to be sent: reported before they are (PS3.15 A.5.3.3)."""
    for name in destinations:
        classes = group.facts.queued.get(name)
        if classes:
            sender = _edge(group.here, dicom.SOURCE, requestor=True)
            to = _destination(group, name)
            yield _message(group, dicom.BEGIN_TRANSFERRING, dicom.EXECUTE_ACTION, sender, to, classes=classes)


def _report_transfer(group: RowGroup, outcome: int = dicom.SUCCEEDED) -> Iterator[AuditMessage]:
    """Whether the destination had them before is not ours to know: read (PS3.15 table A.5.3.7-1)."""
    sender = _edge(group.here, dicom.SOURCE, requestor=True)
    to = _destination(group, group.first.destination)
    yield _message(group, dicom.INSTANCES_TRANSFERRED, dicom.READ_ACTION, sender, to, outcome=outcome)


def _report_hold(group: RowGroup) -> Iterator[AuditMessage]:
    """Report a hold: by the destination's refusal, or by a person."""
    if group.first.who in (ledger.EDGE, group.first.destination):
        yield from _report_transfer(group, dicom.SERIOUS_FAILURE)
    else:
        yield from _report_access(group)


def _report_proof(group: RowGroup) -> Iterator[AuditMessage]:
    """Report a query, where a proof was looked for; a proof alone is no access."""
    if group.first.payload.get("method") == ledger.BY_QUERY:
        facts = group.facts
        identifier = find_identifier(facts.study_uid, "\\".join(facts.series), (), IMPLICIT_VR_LITTLE_ENDIAN)
        asked = dicom.query_subject(STUDY_ROOT_FIND, identifier, IMPLICIT_VR_LITTLE_ENDIAN)
        who = _edge(group.here, dicom.SOURCE, requestor=True), _destination(group, group.first.destination)
        yield _message(group, dicom.QUERY, dicom.EXECUTE_ACTION, *who, subjects=(asked,))


#: SOP class of a question, by what was asked of which information model.
_ASKED = {
    ("worklist", "WORKLIST"): MODALITY_WORKLIST_FIND,
    ("find", "PATIENT"): PATIENT_ROOT_FIND,
    ("find", "STUDY"): STUDY_ROOT_FIND,
    ("retrieve", "PATIENT"): PATIENT_ROOT_MOVE,
    ("retrieve", "STUDY"): STUDY_ROOT_MOVE,
}


def _report_query(group: RowGroup) -> Iterator[AuditMessage]:
    """What was asked of us, as it was encoded (PS3.15 A.5.3.10)."""
    first, payload = group.first, group.first.payload
    if "identifier" not in payload:
        return
    sop_class = _ASKED.get((payload["what"], payload["model"]), STUDY_ROOT_FIND)
    asked = dicom.query_subject(sop_class, base64.b64decode(payload["identifier"]), payload["syntax"])
    outcome = dicom.MINOR_FAILURE if payload["status"] >> 12 in (0xA, 0xC) else dicom.SUCCEEDED
    who = _peer(PeerNode(first.who, address_of(payload)), dicom.SOURCE, requestor=True)
    to = _edge(group.here, dicom.DESTINATION)
    yield _message(group, dicom.QUERY, dicom.EXECUTE_ACTION, who, to, outcome=outcome, subjects=(asked,))


def _report_retrieval(group: RowGroup) -> Iterator[AuditMessage]:
    """Objects went to one who had asked for them, or to another that was named."""
    sender = _edge(group.here, dicom.SOURCE)
    to = _peer(PeerNode(group.first.payload["to"], ""), dicom.DESTINATION)
    asker = _peer(PeerNode(group.first.who, address_of(group.first.payload)), dicom.DESTINATION, requestor=True)
    yield _message(group, dicom.INSTANCES_TRANSFERRED, dicom.READ_ACTION, sender, to, asker)


def _report_step(group: RowGroup) -> Iterator[AuditMessage]:
    """A modality reported a performed procedure step, or its end (PS3.15 A.5.3.11)."""
    payload = group.first.payload
    action = dicom.CREATE_ACTION if payload.get("state") == IN_PROGRESS else dicom.UPDATE_ACTION
    who = _caller(group), _edge(group.here)
    yield _message(group, dicom.PROCEDURE_RECORD, action, *who, subjects=_step_subjects(payload))


def _report_step_sent(group: RowGroup) -> Iterator[AuditMessage]:
    """Report that a performed procedure step went on to a target."""
    who = _edge(group.here, requestor=True), _destination(group, group.first.destination)
    subjects = _step_subjects(group.first.payload)
    yield _message(group, dicom.PROCEDURE_RECORD, dicom.READ_ACTION, *who, subjects=subjects)


def _step_subjects(payload: Payload) -> tuple[Subject, ...]:
    """The study, as the step named it; whose it is, the ledger does not say."""
    study = dicom.study_subject(payload.get("study_uid", ""), "", payload.get("accession", ""), {})
    return study, dicom.patient_subject("", "")


def _report_rejection(group: RowGroup) -> Iterator[AuditMessage]:
    """Report a rejection note that came, or that a person let take effect: what it names is hidden here."""
    outcome = dicom.SUCCEEDED if group.first.payload.get("allowed") else dicom.MINOR_FAILURE
    who = Participant(group.first.who, True, name=group.first.who), _edge(group.here)
    yield _message(group, dicom.INSTANCES_ACCESSED, dicom.DELETE_ACTION, *who, outcome=outcome)


def _report_commitment(group: RowGroup, outcome: int = dicom.SUCCEEDED) -> Iterator[AuditMessage]:
    """Equipment was assured of its images, or was denied it: we examined them on its behalf."""
    who = Participant(group.first.who, True, name=group.first.who), _edge(group.here)
    yield _message(group, dicom.INSTANCES_ACCESSED, dicom.READ_ACTION, *who, outcome=outcome)


def _report_access(group: RowGroup, action: str = dicom.UPDATE_ACTION) -> Iterator[AuditMessage]:
    yield _message(group, dicom.INSTANCES_ACCESSED, action, _person(group), _edge(group.here))


def _report_resend(group: RowGroup) -> Iterator[AuditMessage]:
    """Report that a person has work sent (again)."""
    yield from _report_access(group)
    yield from _report_queueing(group, [group.first.destination] if group.first.destination else group.facts.queued)


def _report_export(group: RowGroup) -> Iterator[AuditMessage]:
    """A person took a copy away (PS3.15 A.5.3.6)."""
    yield _message(group, dicom.EXPORT, dicom.READ_ACTION, _person(group), _edge(group.here, dicom.SOURCE))


def _report_change(group: RowGroup) -> Iterator[AuditMessage]:
    yield _message(group, dicom.INSTANCES_ACCESSED, dicom.UPDATE_ACTION, _edge(group.here, requestor=True))


def _report_deletion(group: RowGroup) -> Iterator[AuditMessage]:
    event = dicom.INSTANCES_ACCESSED if group.facts.kept else dicom.STUDY_DELETED
    yield _message(group, event, dicom.DELETE_ACTION, _edge(group.here, requestor=True))


def _alert(
    group: RowGroup, kind: Code, outcome: int, *who: Participant, subjects: tuple[Subject, ...] = ()
) -> Iterator[AuditMessage]:
    about = dicom.alert_subject(group.here.host, group.first.words or group.first.event)
    yield _message(
        group, dicom.SECURITY_ALERT, dicom.EXECUTE_ACTION, *who, outcome=outcome, type=kind, subjects=(about, *subjects)
    )


def _report_loss(group: RowGroup) -> Iterator[AuditMessage]:
    edge = _edge(group.here, requestor=True)
    yield from _alert(group, dicom.OBJECT_SECURITY, dicom.SERIOUS_FAILURE, edge, subjects=group.subjects)


def _report_recovery(group: RowGroup) -> Iterator[AuditMessage]:
    yield from _alert(group, dicom.SOFTWARE_CONFIGURATION, dicom.SUCCEEDED, _edge_or_person(group))


def _report_refusal(group: RowGroup) -> Iterator[AuditMessage]:
    """A person who did not get in, or a node."""
    if group.first.payload.get("action") == ledger.SIGN_IN:
        yield from _report_sign_in(group, dicom.MINOR_FAILURE)
    else:
        yield from _alert(group, dicom.NODE_AUTHENTICATION, dicom.MINOR_FAILURE, _edge(group.here), _caller(group))


def _caller(group: RowGroup) -> Participant:
    who = group.first.who
    return Participant(who, True, name=who, address=address_of(group.first.payload))


def _report_override(group: RowGroup) -> Iterator[AuditMessage]:
    subjects = group.subjects if group.first.study_id else ()
    yield from _alert(
        group, dicom.RESTRICTED_FUNCTION, dicom.SUCCEEDED, _person(group), _edge(group.here), subjects=subjects
    )
    if group.first.payload.get("action") == ledger.REDIRECT:
        yield from _report_queueing(group, [group.first.destination])


def _report_cancellation(group: RowGroup) -> Iterator[AuditMessage]:
    """What a person decided; that an object does not go where it has been is nobody's decision."""
    if group.first.who != ledger.EDGE:
        yield from _report_override(group)


def _report_configuration(group: RowGroup) -> Iterator[AuditMessage]:
    payload = group.first.payload
    outcome = dicom.MINOR_FAILURE if payload.get("action") == ledger.REJECT else dicom.SUCCEEDED
    yield from _alert(group, _kind_of_change(payload), outcome, _edge_or_person(group))


def _kind_of_change(payload: Payload) -> Code:
    if payload.get("action") == ledger.ACCOUNT:
        return dicom.USER_SECURITY
    is_security = not SECURITY_SECTIONS.isdisjoint(payload.get("sections", ()))
    return dicom.SECURITY_CONFIGURATION if is_security else dicom.SOFTWARE_CONFIGURATION


def _report_sign_in(group: RowGroup, outcome: int = dicom.SUCCEEDED) -> Iterator[AuditMessage]:
    kind = dicom.LOGOUT if group.first.payload.get("action") == ledger.SIGN_OUT else dicom.LOGIN
    who = _caller(group), _edge(group.here)
    yield _message(
        group, dicom.USER_AUTHENTICATION, dicom.EXECUTE_ACTION, *who, outcome=outcome, type=kind, subjects=()
    )


def _report_reading(group: RowGroup) -> Iterator[AuditMessage]:
    log = dicom.log_subject("edge:ledger")
    yield _message(group, dicom.AUDIT_LOG_USED, dicom.READ_ACTION, _person(group), subjects=(log,))


def _activity(application: Code, network: Code) -> Reporter:
    def report(group: RowGroup) -> Iterator[AuditMessage]:
        started = _edge(group.here, dicom.APPLICATION)
        node = Participant(group.here.host, address=group.here.host)
        yield _message(group, dicom.APPLICATION_ACTIVITY, dicom.EXECUTE_ACTION, started, type=application, subjects=())
        yield _message(group, dicom.NETWORK_ENTRY, dicom.EXECUTE_ACTION, node, type=network, subjects=())

    return report


def _message(
    group: RowGroup,
    event: Code,
    action: str,
    *who: Participant,
    outcome: int = dicom.SUCCEEDED,
    type: Code | None = None,
    classes: Classes | None = None,
    subjects: tuple[Subject, ...] | None = None,
) -> AuditMessage:
    """About the study and its patient, unless `subjects` has others. A transfer has the time of its last image."""
    if subjects is None:
        subjects = group.subjects_of(group.facts.classes if classes is None else classes)
    at = group.first.at if event is dicom.BEGIN_TRANSFERRING else group.last.at
    return AuditMessage(event, action, at, outcome, type, group.description, who, subjects)


def address_of(payload: Payload) -> str:
    """The network address of the caller or person; empty where the row has none, or not that of one machine."""
    try:
        return str(ipaddress.ip_address(payload["address"]))
    except (LookupError, ValueError):
        return ""


Reporter = Callable[[RowGroup], Iterator[AuditMessage]]

#: Ledger event -> what reports it. What is absent is not reported: that a route was chosen is no access.
REPORTERS: dict[str, Reporter] = {
    ledger.STARTED: _activity(dicom.APPLICATION_START, dicom.ATTACH),
    ledger.STOPPED: _activity(dicom.APPLICATION_STOP, dicom.DETACH),
    ledger.RECEIVED: _report_reception,
    ledger.FETCHED: _report_reception,
    ledger.ADOPTED: _report_reception,
    ledger.CONFLICT: _report_reception,
    ledger.QUARANTINED: lambda group: _report_arrival(group, dicom.MINOR_FAILURE),
    ledger.REFUSED: _report_refusal,
    ledger.SENT: _report_transfer,
    ledger.CONFIRMED: _report_proof,
    ledger.DENIED: lambda group: _report_transfer(group, dicom.MINOR_FAILURE),
    ledger.COMMITTED: _report_commitment,
    ledger.NOT_COMMITTED: lambda group: _report_commitment(group, dicom.MINOR_FAILURE),
    ledger.QUERIED: _report_query,
    ledger.RETRIEVED: _report_retrieval,
    ledger.PERFORMED: _report_step,
    ledger.STEP_SENT: _report_step_sent,
    ledger.STEP_DECIDED: _report_override,
    ledger.REJECTED: _report_rejection,
    ledger.HELD: _report_hold,
    ledger.RELEASED: _report_resend,
    ledger.RETRIED: _report_resend,
    ledger.ADMITTED: _report_access,
    ledger.DISCARDED: _report_access,
    ledger.DELETED: _report_deletion,
    ledger.EXPORTED: _report_export,
    ledger.CHANGED: _report_change,
    ledger.REPAIRED: _report_change,
    ledger.EVICTED: _report_deletion,
    ledger.LOST: _report_loss,
    ledger.RECOVERED: _report_recovery,
    ledger.VIEWED: lambda group: _report_access(group, dicom.READ_ACTION),
    ledger.OVERRIDDEN: _report_override,
    ledger.ROUTED: lambda group: _report_queueing(group, [group.first.destination]),
    ledger.CANCELLED: _report_cancellation,
    ledger.IMPORTED: _report_override,
    ledger.SETTLED: _report_override,
    ledger.DRILLED: _report_override,
    ledger.LEGAL_HOLD: _report_override,
    ledger.LEGAL_RELEASE: _report_override,
    ledger.SIGNED_IN: _report_sign_in,
    ledger.CONFIGURED: _report_configuration,
    ledger.REPORTED: _report_reading,
}
