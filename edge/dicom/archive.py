"""Asking an archive what it has, and having it give that back on the same association (PS3.4 annex C: C-FIND, C-GET).

Objects come as the archive keeps them: each SOP class is proposed in several transfer syntaxes, each in a context of
its own. Raises PeerError when the peer or the network fails, ServiceRefused when it does not offer the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from edge.dicom import items
from edge.dicom.acse import MAX_CONTEXTS, Context, Role
from edge.dicom.command import CommandField, Element
from edge.dicom.commitment import QUERY_RETRIEVE_LEVEL
from edge.dicom.dialogue import PENDING, Deadline, DimseMessage
from edge.dicom.failures import RequestFailed, ServiceRefused, raise_failure
from edge.dicom.items import Attributes
from edge.dicom.scu import Association, Patience, Peer, Secure
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND, STUDY_ROOT_GET
from edge.errors import ProtocolError, Unreadable

STUDY_UID, SERIES_UID, SOP_UID = 0x0020000D, 0x0020000E, 0x00080018
#: Seconds for each step, for one C-FIND and for one C-GET.
_STEP_SECONDS, _FIND_SECONDS, _GET_SECONDS = 30.0, 120.0, 600.0
#: Answers of one C-FIND.
_MOST_ANSWERS = 20_000
#: Transfer syntaxes in which archives keep images (PS3.5 annex A): each as it is, none is converted for us.
KEPT_IN = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
)
#: SOP classes of one association: so that all transfer syntaxes of each fit.
MOST_CLASSES = (MAX_CONTEXTS - 2) // len(KEPT_IN)
_FIND, _GET, _FIRST_STORE = 1, 3, 5

#: Takes an object that the archive gives: reads its data set, and returns the status of the C-STORE.
TakeGiven = Callable[[Association, DimseMessage], int]


class ArchiveExchange:
    """An association with an archive."""

    def __init__(self, association: Association) -> None:
        self._association = association

    @property
    def can_get(self) -> bool:
        """Does the archive offer C-GET?"""
        return _GET in self._association.accepted

    def find(self, keys: Mapping[int, str]) -> list[Attributes]:
        """What the archive has, Study Root. `keys`: the level among them."""
        association = self._association
        if _FIND not in association.accepted:
            raise ServiceRefused("it does not offer C-FIND")
        syntax, found, status = association.accepted[_FIND], list[Attributes](), 0
        elements: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_FIND,
            Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
            Element.PRIORITY: 2,  # low
        }
        deadline = Deadline(_FIND_SECONDS, _STEP_SECONDS)
        data = items.encode_items(items.item(keys), syntax)
        for answer in association.request(_FIND, elements, data, deadline=deadline):
            body, status = association.read(answer, deadline), answer.status
            if status in PENDING:
                found.append(_decode(body, syntax))
                if len(found) > _MOST_ANSWERS:
                    raise ProtocolError(f"more than {_MOST_ANSWERS} answers")
        raise_failure("the query", status)
        return found

    def get(self, study_uid: str, series_uid: str, uids: Sequence[str], take: TakeGiven) -> None:
        """C-GET of instances of a series. `take` is called for each; what it raises ends the association."""
        association = self._association
        if not self.can_get:
            raise ServiceRefused("it does not offer C-GET")
        keys = {QUERY_RETRIEVE_LEVEL: "IMAGE", STUDY_UID: study_uid, SERIES_UID: series_uid, SOP_UID: "\\".join(uids)}
        data = items.encode_items(items.item(keys), association.accepted[_GET])
        elements: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_GET,
            Element.COMMAND_FIELD: CommandField.C_GET_RQ,
            Element.PRIORITY: 2,  # low
        }
        deadline, status, wanted = Deadline(_GET_SECONDS, _STEP_SECONDS), 0, set(uids)

        def store(message: DimseMessage) -> None:
            named = message.command.text(Element.AFFECTED_SOP_INSTANCE_UID)
            if message.field != CommandField.C_STORE_RQ or named not in wanted:
                raise ProtocolError("an object or message came that was not asked for")
            association.respond(message, take(association, message))

        for answer in association.request(_GET, elements, data, deadline=deadline, serve=store):
            association.skip(answer)  # the Failed SOP Instance UID List: what has come counts
            status = answer.status
        if status not in (0x0000, 0xB000):
            raise RequestFailed(f"C-GET failed with status {status:04X}", status)


def _decode(data: bytes, syntax: str) -> Attributes:
    try:
        return items.decode_items(data, syntax)
    except Unreadable:
        raise ProtocolError("an answer to the query that cannot be read") from None


@contextmanager
def open_archive(
    peer: Peer, calling_ae: str, sop_classes: Sequence[str] = (), secure: Secure | None = None
) -> Iterator[ArchiveExchange]:
    """An association for queries and, with the classes of what is wanted, for C-GET; aborted after an error."""
    little = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    contexts = [Context(_FIND, STUDY_ROOT_FIND, little), Context(_GET, STUDY_ROOT_GET, little)]
    wanted = [(sop_class, syntax) for sop_class in sop_classes[:MOST_CLASSES] for syntax in KEPT_IN]
    contexts += [Context(_FIRST_STORE + 2 * at, uid, (syntax,)) for at, (uid, syntax) in enumerate(wanted)]
    roles = {uid: Role(scu=False, scp=True) for uid in sop_classes[:MOST_CLASSES]}
    patience = Patience(_STEP_SECONDS, _STEP_SECONDS, _STEP_SECONDS)
    association = Association.open(
        peer.host, peer.port, calling_ae, peer.ae_title, contexts, roles=roles, patience=patience, secure=secure
    )
    try:
        yield ArchiveExchange(association)
    except BaseException:
        association.abort()
        raise
    association.release()
