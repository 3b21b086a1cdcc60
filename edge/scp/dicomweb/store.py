"""The resource that takes instances: POST /studies and /studies/{study} (PS3.18 section 10.5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from edge.config.sections import Config
from edge.dicom.json import to_json, write_json, write_xml
from edge.model import Origin
from edge.network.multipart import BadMultipart, PartReader, is_boundary
from edge.scp.admission import Admission, Caller
from edge.scp.dicomweb import media
from edge.scp.dicomweb.exchange import DICOM_JSON, DICOM_XML, Exchange, WebAnswer
from edge.scp.dicomweb.media import MediaType
from edge.scp.dicomweb.protocol import ConnectionEnded, HttpError
from edge.scp.dicomweb.receive import StowReceiver, UnsupportedPart
from edge.scp.dicomweb.report import TRY_AGAIN_SECONDS, build_report, status_of
from edge.scp.link import GatewayLink
from edge.scp.recorder import Recorder
from edge.scp.services.store import refuse_rejected

#: Flushes at once, of as many requests.
FLUSHES = 16
_SENT = ("application/dicom", "")


class StoreResource:
    """See the module's docstring."""

    def __init__(
        self,
        config: Callable[[], Config],
        recorder: Recorder,
        check_room: Callable[[], None],
        link: GatewayLink,
    ) -> None:
        self._config, self._recorder, self._check_room, self._link = config, recorder, check_room, link
        self._pool = ThreadPoolExecutor(FLUSHES, thread_name_prefix="flush")

    def answer(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        written_as = media.choose_media(exchange.request.header("accept"), (DICOM_JSON, DICOM_XML))
        sent = _sent_as(exchange)
        self._check_room()
        config = self._config()
        origin = Origin(exchange.caller.title, config.listen.ae_title, exchange.address, time.time())
        given = self._recorder, self._check_room, origin, self._pool, names.get("study", "")
        receiver = StowReceiver(*given, lambda uid: refuse_rejected(uid, config, self._link))
        try:
            is_whole = _receive(exchange, sent, receiver)
            receiver.flush()
        except UnsupportedPart as error:
            raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{error}.") from None
        finally:
            receiver.close()
        self._note(exchange, receiver)
        status = status_of(receiver.done, is_whole=is_whole)
        report = build_report(receiver.done, exchange.base)
        body = write_json(to_json(report)) if written_as == DICOM_JSON else write_xml(report)
        headers = {"Content-Type": written_as, "Cache-Control": "no-store"}
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(TRY_AGAIN_SECONDS)
        for cause in {each.cause for each in receiver.done if each.cause is not None}:
            self._link.note_hindrance(cause)
        return WebAnswer(status, headers, body)

    def _note(self, exchange: Exchange, receiver: StowReceiver) -> None:
        stored = sum(each.is_stored for each in receiver.done)
        caller = Caller(exchange.caller.title, exchange.address)
        admission = Admission(exchange.caller.name, services=exchange.caller.services)
        self._link.note_call(caller, admission, (), 0)
        if stored:
            self._link.note_call(caller, admission, (), stored)


def _sent_as(exchange: Exchange) -> MediaType:
    """What the body is. Raises HttpError."""
    request = exchange.request
    if request.header("content-encoding").lower() not in ("", "identity"):
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must not be compressed: Content-Encoding.")
    sent = media.parse_media(request.header("content-type"))
    if sent.name == "application/dicom":
        return sent
    if sent.name != "multipart/related" or sent.parameters.get("type", "").lower() not in _SENT:
        text = 'Send multipart/related; type="application/dicom", or application/dicom.'
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
    if not is_boundary(sent.parameters.get("boundary", "")):
        raise HttpError(HTTPStatus.BAD_REQUEST, "The Content-Type has no boundary, or none that RFC 2046 allows.")
    return sent


def _receive(exchange: Exchange, sent: MediaType, receiver: StowReceiver) -> bool:
    """Feed the body to the receiver. False: it was cut, or is not what its Content-Type says."""
    if sent.name == "application/dicom":
        receiver.begin({})
        for piece in exchange.body:
            receiver.write(memoryview(piece))
        receiver.end()
        return True
    reader = PartReader(sent.parameters["boundary"], receiver)
    try:
        for piece in exchange.body:
            reader.feed(piece)
    except (BadMultipart, ConnectionEnded):
        return False
    return reader.is_whole
