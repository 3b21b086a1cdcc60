"""DICOM audit messages: the vocabulary and the XML of PS3.15 A.5, and nothing of the gateway.

    to_xml(Message(STUDY_DELETED, "D", at, participants=(...,), subjects=(...,)), Source("0067", "EDGE"))

Every message that `to_xml` returns follows the schema of PS3.15 A.5.1, whatever a header held: characters
that XML does not know become U+FFFD, line ends and tabs a space. One line, no declaration: it travels inside syslog.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from xml.etree import ElementTree

#: Outcomes (PS3.15 A.5.1): nominal success, minor failure (tried again), serious failure (given up).
SUCCEEDED, MINOR_FAILURE, SERIOUS_FAILURE = 0, 4, 8
#: The actions of an event: create, read, update, delete, execute.
CREATE_ACTION, READ_ACTION, UPDATE_ACTION, DELETE_ACTION, EXECUTE_ACTION = "C", "R", "U", "D", "E"


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value; `meaning` is its Code Meaning."""

    value: str
    meaning: str
    system: str = "DCM"


# Event IDs (PS3.16 CID 400).
APPLICATION_ACTIVITY = Code("110100", "Application Activity")
AUDIT_LOG_USED = Code("110101", "Audit Log Used")
BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED = Code("110105", "DICOM Study Deleted")
EXPORT = Code("110106", "Export")
NETWORK_ENTRY = Code("110108", "Network Entry")
PROCEDURE_RECORD = Code("110111", "Procedure Record")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")
USER_AUTHENTICATION = Code("110114", "User Authentication")
# Event types (PS3.16 CID 401 to 403).
APPLICATION_START = Code("110120", "Application Start")
APPLICATION_STOP = Code("110121", "Application Stop")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
ATTACH = Code("110124", "Attach")
DETACH = Code("110125", "Detach")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
USER_SECURITY = Code("110137", "User Security Attributes Changed")
OBJECT_SECURITY = Code("110135", "Object Security Attributes Changed")
# Roles (PS3.16 CID 402).
APPLICATION = Code("110150", "Application")
DESTINATION = Code("110152", "Destination Role ID")
SOURCE = Code("110153", "Source Role ID")
# What a participant object's identifier is (PS3.16 CID 404, and PS3.15 A.5.1.2.4).
STUDY_UID_TYPE = Code("110180", "Study Instance UID")
SOP_CLASS_TYPE = Code("110181", "SOP Class UID")
NODE_TYPE = Code("110182", "Node ID")
PATIENT_TYPE = Code("2", "Patient Number", "RFC-3881")
URI_TYPE = Code("12", "URI", "RFC-3881")

# Participant object: type code and role (PS3.15 A.5.1.2.2).
_PERSON, _SYSTEM_OBJECT = "1", "2"
_PATIENT, _REPORT, _SECURITY_RESOURCE = "1", "3", "13"

#: Says that an identifier which the schema demands is not known.
UNKNOWN_IDENTIFIER = "<none>"


@dataclass(frozen=True, slots=True)
class Participant:
    """A person, process or node that took part. `address`: of the network, by number or name."""

    user_id: str
    requestor: bool = False
    role: Code | None = None
    ae_title: str = ""
    name: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A participant object: a study, a patient, a log, what was asked for. Built by the functions below."""

    id: str
    id_type: Code
    type_code: str
    role: str
    name: str = ""
    query: bytes | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    accession: str = ""
    sop_classes: Mapping[str, int] = field(default_factory=dict)  # UID -> number of instances


@dataclass(frozen=True, slots=True)
class Source:
    """Who tells: the site, and the system there."""

    site: str
    id: str


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One event. `at` in seconds since 1970; `description` is for people and makes each message unlike any other."""

    event: Code
    action: str
    at: float
    outcome: int = SUCCEEDED
    type: Code | None = None
    description: str = ""
    participants: tuple[Participant, ...] = ()
    subjects: tuple[Subject, ...] = ()


def study_subject(uid: str, name: str, accession: str, sop_classes: Mapping[str, int]) -> Subject:
    """A study, and how many of its instances are meant, by SOP class."""
    return Subject(
        uid or UNKNOWN_IDENTIFIER,
        STUDY_UID_TYPE,
        _SYSTEM_OBJECT,
        _REPORT,
        name or "study",
        accession=accession,
        sop_classes=sop_classes,
    )


def patient_subject(patient_id: str, name: str) -> Subject:
    return Subject(patient_id or UNKNOWN_IDENTIFIER, PATIENT_TYPE, _PERSON, _PATIENT, name or UNKNOWN_IDENTIFIER)


def query_subject(sop_class_uid: str, identifier: bytes, transfer_syntax_uid: str) -> Subject:
    """What was asked for: the SOP class queried, and the encoded identifier (PS3.15 A.5.3.10)."""
    details = {"TransferSyntax": transfer_syntax_uid}
    return Subject(sop_class_uid, SOP_CLASS_TYPE, _SYSTEM_OBJECT, _REPORT, query=identifier, details=details)


def log_subject(uri: str) -> Subject:
    return Subject(uri, URI_TYPE, _SYSTEM_OBJECT, _SECURITY_RESOURCE, "Security Audit Log")


def alert_subject(node: str, text: str) -> Subject:
    """What a security alert is about: a node, and what happened in words."""
    return Subject(
        node or UNKNOWN_IDENTIFIER,
        NODE_TYPE,
        _SYSTEM_OBJECT,
        _SECURITY_RESOURCE,
        "node",
        details={"Alert Description": text},
    )


def to_xml(message: AuditMessage, source: Source) -> str:
    """The message as one line of XML."""
    root = ElementTree.Element("AuditMessage")
    event = _add(
        root,
        "EventIdentification",
        EventActionCode=message.action,
        EventDateTime=_moment(message.at),
        EventOutcomeIndicator=str(message.outcome),
    )
    _add_code(event, "EventID", message.event)
    if message.type is not None:
        _add_code(event, "EventTypeCode", message.type)
    if message.description:
        _add(event, "EventOutcomeDescription").text = _clean(message.description)
    for participant in message.participants:
        _add_participant(root, participant)
    origin = _add(root, "AuditSourceIdentification", AuditEnterpriseSiteID=source.site, AuditSourceID=source.id)
    _add(origin, "AuditSourceTypeCode", **{"csd-code": "4"})  # application server process
    for subject in message.subjects:
        _add_subject(root, subject)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _add_participant(root: ElementTree.Element, participant: Participant) -> None:
    optional = {
        "AlternativeUserID": f"AETITLES={participant.ae_title}" if participant.ae_title else "",
        "UserName": participant.name,
        "NetworkAccessPointID": participant.address,
        "NetworkAccessPointTypeCode": _kind_of(participant.address),
    }
    given = {name: value for name, value in optional.items() if value}
    element = _add(
        root,
        "ActiveParticipant",
        UserID=participant.user_id,
        UserIsRequestor=str(participant.requestor).lower(),
        **given,
    )
    if participant.role is not None:
        _add_code(element, "RoleIDCode", participant.role)


def _add_subject(root: ElementTree.Element, subject: Subject) -> None:
    element = _add(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=subject.id,
        ParticipantObjectTypeCode=subject.type_code,
        ParticipantObjectTypeCodeRole=subject.role,
    )
    _add_code(element, "ParticipantObjectIDTypeCode", subject.id_type)
    if subject.query is not None:
        _add(element, "ParticipantObjectQuery").text = base64.b64encode(subject.query).decode()
    else:
        _add(element, "ParticipantObjectName").text = _clean(subject.name)
    for name, text in subject.details.items():
        value = base64.b64encode(_clean(text).encode()).decode()
        _add(element, "ParticipantObjectDetail", type=name, value=value)
    if subject.accession or subject.sop_classes:
        description = _add(element, "ParticipantObjectDescription")
        if subject.accession:
            _add(description, "Accession", Number=subject.accession)
        for uid, number in sorted(subject.sop_classes.items()):
            _add(description, "SOPClass", UID=uid, NumberOfInstances=str(number))


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {name: _clean(value) for name, value in attributes.items()})


def _add_code(parent: ElementTree.Element, tag: str, code: Code) -> None:
    _add(parent, tag, **{"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning})


def _moment(at: float) -> str:
    """UTC with microseconds, as xsd:dateTime."""
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _kind_of(address: str) -> str:
    """1 machine name, 2 IP address; empty where there is no address."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return "1" if address else ""
    return "2"


_SPACES = re.compile(r"[\t\r\n]+")
_NO_XML = re.compile("[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def _clean(text: str) -> str:
    """Text that XML may hold; the schema allows none to be empty."""
    return _NO_XML.sub("\ufffd", _SPACES.sub(" ", text)).strip() or UNKNOWN_IDENTIFIER
