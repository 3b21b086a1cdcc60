"""Instances that an archive gives back, some at a time, in the way that it offers.

    C-GET      on an association of ours (PS3.4 section C.4.3)
    C-MOVE     to ourselves, where it offers no C-GET, or refuses it: the objects come by our own door (C.4.2)
    WADO-RS    where the destination is a DICOMweb server (PS3.18 section 10.4)

Who calls takes each object as it comes, and says what to answer; what C-MOVE brings is recorded by the door. Every
wait and length is bounded. Raises PeerError when the archive or the network fails, ServiceRefused when the archive
offers none of these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from edge.config.sections import Destination
from edge.dicom import items
from edge.dicom.acse import MAX_CONTEXTS, Context, Role
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import Deadline, DimseMessage
from edge.dicom.failures import RequestFailed, ServiceRefused
from edge.dicom.pdu import Aborted
from edge.dicom.pdu_reader import Sink
from edge.dicom.scu import Association, Patience, Secure
from edge.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_CLASSES,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    TRANSFER_SYNTAXES,
)
from edge.errors import PeerError, ProtocolError
from edge.model import ContextKey
from edge.query.levels import UNIQUE_KEYWORDS, Level, tag_of
from edge.query.located import Located
from edge.query.matching import QUERY_LEVEL
from edge.query.web_exchange import WebExchange
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
_FIRST_STORAGE = 5  # context
MOVE_DESTINATION_UNKNOWN = 0xA801
#: HTTP statuses that concern the server, not what was asked for: too many requests, and those of gateways and overload.
_OF_SERVER = frozenset({429, 502, 503, 504})

#: Hands the data set of an object to a sink.
ReadInto = Callable[[Sink], None]
#: Takes an object that has come: its kind, its UID, and what reads its data set. Returns the status of a C-STORE.
TakeObject = Callable[[ContextKey, str, ReadInto], int]


class Fetcher(Protocol):
    """An open exchange with an archive."""

    @property
    def is_recorded_by_door(self) -> bool:
        """Is `take` not called, since our door records what comes, on an association of its own?"""

    def fetch(self, instances: Sequence[Located], take: TakeObject) -> int:
        """Have these come. Returns how many have come and were taken."""

    def close(self) -> None: ...

    def abort(self) -> None: ...


def open_fetcher(
    destination: Destination,
    calling_ae: str,
    sop_classes: Sequence[str],
    secure: Secure | None = None,
    *,
    may_move: bool = True,
    syntax: str = "",
    seconds: float = FETCH_SECONDS,
) -> Fetcher:
    """Open it, for objects of these classes; an empty one: the archive did not say (dcmqrscp 3.6.7 does not).

    `may_move`: by C-MOVE, too. `syntax`: C-GET in this transfer syntax alone. `seconds`: for one C-GET. Raises
    PeerError, ServiceRefused.
    """
    if destination.is_web:
        return WebFetcher(destination)

    def open_association(contexts: Sequence[Context]) -> Association:
        roles = {each.abstract_syntax: Role(scu=False, scp=True) for each in contexts if each.id >= _FIRST_STORAGE}
        where = destination.host, destination.port, calling_ae, destination.ae_title
        patience = Patience(OPEN_SECONDS, OPEN_SECONDS, MESSAGE_SECONDS)
        return Association.open(*where, contexts, roles=roles, patience=patience, secure=secure)

    def open_mover() -> MoveFetcher:
        return MoveFetcher(open_association([MOVE_CONTEXT]), destination.name, calling_ae)

    ways = [GET_CONTEXT, MOVE_CONTEXT] if may_move else [GET_CONTEXT]
    association = open_association([*ways, *_storage_contexts(sop_classes, syntax)])
    can_move = MOVE_CONTEXT.id in association.accepted
    if GET_CONTEXT.id in association.accepted and any(each >= _FIRST_STORAGE for each in association.accepted):
        return GetFetcher(association, open_mover if can_move else None, seconds)
    if can_move:
        return MoveFetcher(association, destination.name, calling_ae)
    association.release()
    raise ServiceRefused(f"{destination.name} offers {'neither C-GET nor C-MOVE' if may_move else 'no C-GET'}")


_LITTLE = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
GET_CONTEXT, MOVE_CONTEXT = Context(1, STUDY_ROOT_GET, _LITTLE), Context(3, STUDY_ROOT_MOVE, _LITTLE)


class GetFetcher:
    """C-GET; where the archive refuses it, by a status or by an abort (Orthanc), C-MOVE. See Fetcher."""

    def __init__(
        self, association: Association, open_mover: Callable[[], MoveFetcher] | None, seconds: float = FETCH_SECONDS
    ) -> None:
        self._association, self._open_mover, self._seconds = association, open_mover, seconds
        self._mover: MoveFetcher | None = None
        self._has_come = False

    @property
    def is_recorded_by_door(self) -> bool:
        return self._mover is not None

    def fetch(self, instances: Sequence[Located], take: TakeObject) -> int:
        """See Fetcher; some archives know no lists of UIDs."""
        if self._mover is not None:
            return self._mover.fetch(instances, take)
        taken: set[str] = set()
        for study, series, uids in _by_series(instances):
            if self._is_refused(partial(self._get, study, series, uids, take, taken)):
                return self._move_instead(instances, take)
            for uid in uids if len(uids) > 1 else ():
                if uid not in taken:
                    self._get(study, series, [uid], take, taken)
        return len(taken)

    def _is_refused(self, get: Callable[[], int]) -> bool:
        """Does the archive refuse C-GET as such? Raises PeerError where it has given something before."""
        try:
            status = get()
        except Aborted:
            if self._has_come or self._open_mover is None:
                raise
            return True
        return is_refusal(status) and not self._has_come and self._open_mover is not None

    def _move_instead(self, instances: Sequence[Located], take: TakeObject) -> int:
        self._association.release()
        assert self._open_mover is not None
        self._mover = self._open_mover()
        return self._mover.fetch(instances, take)

    def close(self) -> None:
        if self._mover is not None:
            self._mover.close()
        else:
            self._association.release()

    def abort(self) -> None:
        (self._mover or self._association).abort()

    def _get(self, study: str, series: str, uids: Sequence[str], take: TakeObject, taken: set[str]) -> int:
        association, deadline, wanted = self._association, Deadline(self._seconds, MESSAGE_SECONDS), frozenset(uids)

        def serve(message: DimseMessage) -> None:
            uid = message.command.text(Element.AFFECTED_SOP_INSTANCE_UID)
            if message.field != CommandField.C_STORE_RQ or not message.command.has_data_set or uid not in wanted:
                raise ProtocolError("a message came that is no object which was asked for")
            self._has_come = True
            if _take_message(association, message, take) == 0:
                taken.add(uid)

        request = _request(STUDY_ROOT_GET, CommandField.C_GET_RQ)
        data = items.encode_items(_identifier(study, series, uids), association.accepted[GET_CONTEXT.id])
        status = 0
        for answer in association.request(GET_CONTEXT.id, request, data, deadline=deadline, serve=serve):
            association.skip(answer)
            status = answer.status
        return status


def is_refusal(status: int) -> bool:
    """Is a final status a failure of the whole request (PS3.4 table C.4-3)?"""
    return status >> 12 in (0xA, 0xC) or status in range(0x0100, 0x0300)


def _take_message(association: Association, message: DimseMessage, take: TakeObject) -> int:
    """Have a C-STORE's object taken, and answer it; what `take` does not read is discarded."""
    context_key = ContextKey(message.command.text(Element.AFFECTED_SOP_CLASS_UID), association.syntax(message))
    is_read = False

    def read_into(sink: Sink) -> None:
        nonlocal is_read
        is_read = True
        association.read_into(message, sink)

    status = take(context_key, message.command.text(Element.AFFECTED_SOP_INSTANCE_UID), read_into)
    if not is_read:
        association.skip(message)
    association.respond(message, status)
    return status


class MoveFetcher:
    """C-MOVE to ourselves. See Fetcher. The archive must know our AE title as a move destination."""

    is_recorded_by_door = True

    def __init__(self, association: Association, name: str, our_title: str, seconds: float = FETCH_SECONDS) -> None:
        self._association, self._name, self._our_title, self._seconds = association, name, our_title, seconds
        self.close, self.abort = association.release, association.abort

    def fetch(self, instances: Sequence[Located], take: TakeObject) -> int:
        """See Fetcher; some archives know no lists of UIDs."""
        count = 0
        for study, series, uids in _by_series(instances):
            came = self._move(study, series, uids)
            if not came and len(uids) > 1:
                came = sum(self._move(study, series, [uid]) for uid in uids)
            count += came
        return count

    def _move(self, study: str, series: str, uids: Sequence[str]) -> int:
        """One C-MOVE; how many objects it brought. Raises ServiceRefused where it cannot bring any."""
        association, deadline = self._association, Deadline(self._seconds, MESSAGE_SECONDS)
        request = _request(STUDY_ROOT_MOVE, CommandField.C_MOVE_RQ) | {Element.MOVE_DESTINATION: self._our_title}
        data = items.encode_items(_identifier(study, series, uids), association.accepted[MOVE_CONTEXT.id])
        status = came = 0
        for answer in association.request(MOVE_CONTEXT.id, request, data, deadline=deadline):
            association.skip(answer)
            status = answer.status
            counts = (answer.command.get(Element.REMAINING + at) for at in (1, 3))  # completed, with a warning
            came = max(came, sum(each for each in counts if isinstance(each, int)))
        if status == MOVE_DESTINATION_UNKNOWN:
            text = f"{self._name} does not know {self._our_title} as a destination of C-MOVE: enter our address there"
            raise ServiceRefused(text, status)
        return came


class WebFetcher:
    """WADO-RS, one object a request: an outage, or one that the server cannot give, costs that object. See Fetcher."""

    is_recorded_by_door = False

    def __init__(self, destination: Destination) -> None:
        self._exchange = WebExchange(destination)
        self.close = self.abort = self._exchange.close

    def fetch(self, instances: Sequence[Located], take: TakeObject) -> int:
        count, failure = 0, None
        for each in instances:
            try:
                count += self._fetch_one(each, take)
            except RequestFailed as error:
                if error.status in _OF_SERVER:
                    raise
                failure = error
        if failure is not None and not count:
            raise failure
        return count

    def _fetch_one(self, instance: Located, take: TakeObject) -> bool:
        source = self._exchange.open_object(instance)
        if source is None:
            return False
        if source.sop_instance_uid != instance.sop_instance_uid:
            source.close()
            raise PeerError("an object came that was not asked for")
        is_taken = take(source.context_key, source.sop_instance_uid, source.read_into) == 0
        source.close()
        return is_taken


def _by_series(instances: Sequence[Located]) -> Iterator[tuple[str, str, list[str]]]:
    by_series: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in instances:
        by_series[each.study_uid, each.series_uid].append(each.sop_instance_uid)
    return ((*where, uids) for where, uids in by_series.items())


def _request(sop_class: str, command: CommandField) -> dict[int, int | str]:
    return {Element.AFFECTED_SOP_CLASS_UID: sop_class, Element.COMMAND_FIELD: command, Element.PRIORITY: 0}


def _identifier(study: str, series: str, uids: Sequence[str]) -> items.Attributes:
    named = {Level.STUDY: study, Level.SERIES: series, Level.IMAGE: "\\".join(uids)}
    return items.item({QUERY_LEVEL: "IMAGE", **{tag_of(UNIQUE_KEYWORDS[at]): text for at, text in named.items()}})


def _storage_contexts(sop_classes: Sequence[str], syntax: str) -> list[Context]:
    """Propose for each class uncompressed syntaxes, then each compression; the first classes where there are too many.

    Where one class alone is asked for there is room for every transfer syntax.
    """
    found: list[Context] = []
    is_unsaid = "" in sop_classes
    known = STORAGE_CLASSES if is_unsaid else tuple(dict.fromkeys(sop_classes))
    groups = [(EXPLICIT_LITTLE, IMPLICIT_LITTLE), *((each,) for each in (() if is_unsaid else _COMPRESSED))]
    if syntax:
        groups = [(syntax,)]
    elif len(known) == 1:
        groups = [(each,) for each in TRANSFER_SYNTAXES]
    for sop_class in known:
        for group in groups:
            if len(found) < MAX_CONTEXTS - 2:
                found.append(Context(2 * len(found) + _FIRST_STORAGE, sop_class, group))
    return found
