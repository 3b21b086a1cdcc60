"""What an archive has, by C-FIND from studies down to instances, and several of them at once by C-GET (PS3.4 annex C).

Every wait and length is bounded. Raises PeerError where the peer or the network fails, ServiceRefused where the peer
does not offer the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from edge.dicom import items
from edge.dicom.acse import MAX_CONTEXTS, Context, Role
from edge.dicom.command import SUCCESS, CommandField, Element
from edge.dicom.commitment import FIND_SECONDS, STEP_SECONDS, find_identifier
from edge.dicom.dialogue import Deadline, DimseMessage
from edge.dicom.failures import raise_failure
from edge.dicom.items import Attributes
from edge.dicom.pdu import Sink
from edge.dicom.scu import Association, Peer, Secure, associate
from edge.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_CLASSES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
)
from edge.errors import ProtocolError, Unreadable
from edge.model import ContextKey

RETRIEVE_LEVEL, _CLASS_UID, _INSTANCE_UID = 0x00080052, 0x00080016, 0x00080018
STUDY, SERIES, _STUDY_DATE = 0x0020000D, 0x0020000E, 0x00080020
#: Seconds for one C-GET of several instances.
GET_MANY_SECONDS = 1800.0

#: Each has a context of its own, so that the archive can send what it has as it is (PS3.5 section 10).
TRANSFER_SYNTAXES = (
    *(EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93)),
    *(f"1.2.840.10008.1.2.4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108, 110, 201, 202, 203)),
    "1.2.840.10008.1.2.5",
)


@dataclass(frozen=True, slots=True)
class ListedInstance:
    """One instance that the archive has."""

    sop_instance_uid: str
    sop_class_uid: str


class Taken(Protocol):
    """Takes one object: its bytes, then its end."""

    def __call__(self, kind: ContextKey, uid: str) -> tuple[Sink, Callable[[], None]]: ...


class Inventory:
    """An association on which an archive is asked what it has."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def studies(self, dates: str = "") -> list[str]:
        """Study Instance UIDs; `dates`: a range of Study Date (PS3.4 section C.2.2.2.5), empty: all."""
        found = self._find("STUDY", {STUDY: "", _STUDY_DATE: dates})
        return list(dict.fromkeys(each.text(STUDY) for each in found if each.text(STUDY)))

    def series(self, study_uid: str) -> list[str]:
        found = self._find("SERIES", {STUDY: study_uid, SERIES: ""})
        return list(dict.fromkeys(each.text(SERIES) for each in found if each.text(SERIES)))

    def instances(self, study_uid: str, series_uid: str) -> list[ListedInstance]:
        found = self._find("IMAGE", {STUDY: study_uid, SERIES: series_uid, _INSTANCE_UID: "", _CLASS_UID: ""})
        return [
            ListedInstance(each.text(_INSTANCE_UID), each.text(_CLASS_UID))
            for each in found
            if each.text(_INSTANCE_UID)
        ]

    def _find(self, level: str, keys: Mapping[int, str]) -> list[Attributes]:
        """One C-FIND; all its matches."""
        syntax, found, status = self._association.accepted[1], list[Attributes](), SUCCESS
        identifier = items.encode_items(items.item({RETRIEVE_LEVEL: level, **keys}), syntax)
        request: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_FIND,
            Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
            Element.PRIORITY: 0,  # medium
        }
        deadline = Deadline(FIND_SECONDS)
        for answer in self._association.request(1, request, identifier, deadline=deadline):
            status = answer.status
            if data := self._association.read(answer, deadline):
                found.append(_decode(data, syntax))
        raise_failure("the query", status)
        return found


def _decode(data: bytes, transfer_syntax_uid: str) -> Attributes:
    try:
        return items.decode_items(data, transfer_syntax_uid)
    except Unreadable:
        raise ProtocolError("an answer to the query that cannot be read") from None


@contextmanager
def open_inventory(peer: Peer, calling_ae: str, secure: Secure | None = None) -> Iterator[Inventory]:
    contexts = [Context(1, STUDY_ROOT_FIND, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))]
    with associate(peer, calling_ae, contexts, {1: "C-FIND"}, seconds=STEP_SECONDS, secure=secure) as association:
        yield Inventory(association)


def get_many(
    peer: Peer,
    calling_ae: str,
    study_uid: str,
    series_uid: str,
    sop_class_uid: str,
    uids: Sequence[str],
    take: Taken,
    secure: Secure | None = None,
) -> set[str]:
    """Have the archive send instances of one SOP class, each in the transfer syntax in which it has it.

    An empty class: the archive did not say it; then those that are most usual are offered, uncompressed.

    Returns the SOP Instance UIDs that came whole. What `take` raises ends the association.
    """
    contexts = [Context(1, STUDY_ROOT_GET, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))]
    contexts += _storage_contexts(sop_class_uid)
    roles = {each.abstract_syntax: Role(scu=False, scp=True) for each in contexts[1:]}
    with associate(
        peer, calling_ae, contexts, {1: "C-GET"}, roles=roles, seconds=STEP_SECONDS, secure=secure
    ) as association:
        identifier = find_identifier(study_uid, series_uid, uids, association.accepted[1])
        return _get_many(association, identifier, set(uids), take)


def _storage_contexts(sop_class_uid: str) -> list[Context]:
    if sop_class_uid:
        return [Context(3 + 2 * n, sop_class_uid, (each,)) for n, each in enumerate(TRANSFER_SYNTAXES)]
    usual = STORAGE_CLASSES[: MAX_CONTEXTS - 1]
    both = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    return [Context(3 + 2 * n, each, both) for n, each in enumerate(usual)]


def _get_many(association: Association, identifier: bytes, wanted: set[str], take: Taken) -> set[str]:
    deadline, came = Deadline(GET_MANY_SECONDS, STEP_SECONDS), set[str]()

    def store(message: DimseMessage) -> None:
        uid = message.command.text(Element.AFFECTED_SOP_INSTANCE_UID)
        is_object = message.field == CommandField.C_STORE_RQ and message.command.has_data_set
        if not is_object or uid not in wanted - came or message.context == 1:
            raise ProtocolError("a message came that was not asked for")
        sop_class = association.proposed[message.context].abstract_syntax
        sink, end = take(ContextKey(sop_class, association.accepted[message.context]), uid)

        def sink_in_time(views: list[memoryview]) -> None:
            deadline.left()
            sink(views)

        association.read_into(message, sink_in_time)
        end()
        came.add(uid)
        association.respond(message, SUCCESS)

    request: dict[int, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_GET,
        Element.COMMAND_FIELD: CommandField.C_GET_RQ,
        Element.PRIORITY: 0,  # medium
    }
    for answer in association.request(1, request, identifier, deadline=deadline, serve=store):
        association.skip(answer)  # the Failed SOP Instance UID List
    return came


def group_by_class(found: Iterable[ListedInstance]) -> dict[str, list[str]]:
    """SOP Instance UIDs by SOP class."""
    groups: dict[str, list[str]] = {}
    for each in found:
        groups.setdefault(each.sop_class_uid, []).append(each.sop_instance_uid)
    return groups


class DimseCopy:
    """What a destination has, by C-FIND, given back by C-GET (edge.storage.restore.CopySource)."""

    def __init__(self, peer: Peer, calling_ae: str, secure: Secure | None = None) -> None:
        self._peer, self._calling, self._secure = peer, calling_ae, secure

    def list_studies(self, dates: str) -> list[str]:
        with open_inventory(self._peer, self._calling, self._secure) as archive:
            return archive.studies(dates)

    def list_instances(self, study_uid: str) -> dict[str, list[ListedInstance]]:
        with open_inventory(self._peer, self._calling, self._secure) as archive:
            return {series: archive.instances(study_uid, series) for series in archive.series(study_uid)}

    def fetch(self, study_uid: str, series_uid: str, sop_class_uid: str, uids: Sequence[str], take: Taken) -> set[str]:
        wanted = (study_uid, series_uid, sop_class_uid, uids, take)
        return get_many(self._peer, self._calling, *wanted, self._secure)
