"""Instances that an archive gives back: C-GET on an association of ours (PS3.4 section C.4.3), some at a time.

Who calls takes each object as it comes, and says what to answer. Every wait and length is bounded. Raises PeerError
when the archive or the network fails, ServiceRefused when the archive does not offer C-GET.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from edge.config.sections import Destination
from edge.dicom import items
from edge.dicom.acse import MAX_CONTEXTS, Context, Role
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import Deadline, DimseMessage
from edge.dicom.failures import ServiceRefused
from edge.dicom.scu import Association, Patience, Secure
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_CLASSES, STUDY_ROOT_GET
from edge.errors import ProtocolError
from edge.query.levels import UNIQUE_KEYWORDS, Level, tag_of
from edge.query.located import Located
from edge.query.matching import QUERY_LEVEL
from edge.transform.syntaxes import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
)

#: Seconds to connect and to be accepted; for one request with all its objects; for each message.
OPEN_SECONDS, FETCH_SECONDS, MESSAGE_SECONDS = 10.0, 600.0, 60.0
#: Each has a context of its own, so that an archive gives an object as it keeps it.
_COMPRESSED = (JPEG_LOSSLESS, JPEG_2000, JPEG_LS, RLE, JPEG_BASELINE, JPEG_EXTENDED)
_GET_CONTEXT = 1

#: Takes an object that has come: its C-STORE, and the association on which its data set is read. Returns the status.
TakeObject = Callable[[DimseMessage, Association], int]


class Fetcher:
    """An association on which an archive gives back what is asked for."""

    def __init__(
        self,
        destination: Destination,
        calling_ae: str,
        sop_classes: Sequence[str],
        secure: Secure | None = None,
    ) -> None:
        """Open it, for objects of these classes; an empty one: the archive did not say (dcmqrscp 3.6.7 does not).

        Raises PeerError, ServiceRefused.
        """
        contexts = [Context(_GET_CONTEXT, STUDY_ROOT_GET, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))]
        contexts += _storage_contexts(sop_classes)
        roles = {each.abstract_syntax: Role(scu=False, scp=True) for each in contexts[1:]}
        patience = Patience(OPEN_SECONDS, OPEN_SECONDS, MESSAGE_SECONDS)
        where = destination.host, destination.port, calling_ae, destination.ae_title
        self._association = Association.open(*where, contexts, roles=roles, patience=patience, secure=secure)
        if _GET_CONTEXT not in self._association.accepted:
            self._association.release()
            raise ServiceRefused(f"{destination.name} does not offer C-GET")

    def fetch(self, instances: Sequence[Located], take: TakeObject) -> set[str]:
        """Have these come; the SOP Instance UIDs of those that `take` has taken with success."""
        by_series: dict[tuple[str, str], list[str]] = defaultdict(list)
        for each in instances:
            by_series[each.study_uid, each.series_uid].append(each.sop_instance_uid)
        taken: set[str] = set()
        for (study, series), uids in by_series.items():
            self._get(study, series, uids, take, taken)
            for uid in uids if len(uids) > 1 else ():
                if uid not in taken:  # some archives know no lists
                    self._get(study, series, [uid], take, taken)
        return taken

    def _get(self, study: str, series: str, uids: Sequence[str], take: TakeObject, taken: set[str]) -> None:
        association, deadline, wanted = self._association, Deadline(FETCH_SECONDS, MESSAGE_SECONDS), frozenset(uids)

        def serve(message: DimseMessage) -> None:
            uid = message.command.text(Element.AFFECTED_SOP_INSTANCE_UID)
            if message.field != CommandField.C_STORE_RQ or not message.command.has_data_set or uid not in wanted:
                raise ProtocolError("a message came that is no object which was asked for")
            status = take(message, association)
            association.respond(message, status)
            if status == 0:
                taken.add(uid)

        request: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_GET,
            Element.COMMAND_FIELD: CommandField.C_GET_RQ,
            Element.PRIORITY: 0,
        }
        data = items.encode_items(_identifier(study, series, uids), association.accepted[_GET_CONTEXT])
        for answer in association.request(_GET_CONTEXT, request, data, deadline=deadline, serve=serve):
            association.skip(answer)

    def close(self) -> None:
        self._association.release()

    def abort(self) -> None:
        self._association.abort()


def _identifier(study: str, series: str, uids: Sequence[str]) -> items.Attributes:
    named = {Level.STUDY: study, Level.SERIES: series, Level.IMAGE: "\\".join(uids)}
    return items.item({QUERY_LEVEL: "IMAGE", **{tag_of(UNIQUE_KEYWORDS[at]): text for at, text in named.items()}})


def _storage_contexts(sop_classes: Sequence[str]) -> list[Context]:
    """For each class what is not compressed, then each compression; the first classes where there are too many."""
    found: list[Context] = []
    compressed = () if "" in sop_classes else _COMPRESSED
    known = STORAGE_CLASSES if "" in sop_classes else dict.fromkeys(sop_classes)
    for sop_class in known:
        for group in ((EXPLICIT_LITTLE, IMPLICIT_LITTLE), *((each,) for each in compressed)):
            if len(found) < MAX_CONTEXTS - 1:
                found.append(Context(2 * len(found) + 3, sop_class, group))
    return found
