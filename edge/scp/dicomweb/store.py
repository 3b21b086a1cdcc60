"""The resource that takes instances: POST /studies and /studies/{study} (PS3.18 section 10.5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from edge.config.sections import Config
from edge.dicom.json import to_json, write_json
from edge.dicom.native_model import json_to_xml
from edge.model import Origin
from edge.network.multipart import BadMultipart, PartReader, is_boundary
from edge.scp.admission import Admission, Caller
from edge.scp.dicomweb import media_types
from edge.scp.dicomweb.composed import ComposedParts
from edge.scp.dicomweb.exchange import DICOM, DICOM_JSON, DICOM_XML, Exchange, WebAnswer
from edge.scp.dicomweb.media_types import MediaType
from edge.scp.dicomweb.protocol import ConnectionEnded, HttpError
from edge.scp.dicomweb.receive import StowReceiver, UnsupportedPart
from edge.scp.dicomweb.report import TRY_AGAIN_SECONDS, build_report, status_of
from edge.scp.gateway_link import GatewayLink
from edge.scp.recorder import Recorder
from edge.scp.services.store import refuse_rejected
from edge.spool.room import disk_of

#: Flushes at once, of as many requests.
FLUSHES = 16
_SENT = (DICOM, "", DICOM_JSON, DICOM_XML)
_PIECE = 256 * 1024
#: Requests of metadata and bulk data at a time: they are held in memory.
COMPOSED_AT_ONCE = 2


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
        written_as = media_types.choose_media(exchange.accept, (DICOM_JSON, DICOM_XML))
        sent = _sent_as(exchange)
        self._check_room()
        config = self._config()
        _check_length(exchange.request.length or 0, config)
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
        body = write_json(to_json(report)) if written_as == DICOM_JSON else json_to_xml(to_json(report))
        headers = {"Content-Type": written_as, "Cache-Control": "no-store"}
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(TRY_AGAIN_SECONDS)
        for cause in {each.cause for each in receiver.done if each.cause is not None}:
            self._link.note_hindrance(cause)
        return WebAnswer(status, headers, body)

    def _note(self, exchange: Exchange, receiver: StowReceiver) -> None:
        stored = sum(each.is_stored for each in receiver.done)
        if stored:
            caller = Caller(exchange.caller.title, exchange.address, exchange.certificate)
            admission = Admission(exchange.caller.name, services=exchange.caller.services)
            self._link.note_call(caller, admission, (), stored)


def _check_length(length: int, config: Config) -> None:
    """Refuse a body for which there is no room, before it is sent. Raises HttpError: 413, 503."""
    disk, mark = disk_of(config.site.data_dir), config.storage.refuse
    if length > disk.total_bytes * mark:
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is larger than the gateway's disk.")
    if length > disk.free_bytes - disk.total_bytes * (1 - mark):
        text = "The gateway's disk has no room for the body now."
        raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": str(TRY_AGAIN_SECONDS)})


def _sent_as(exchange: Exchange) -> MediaType:
    """What the body is. Raises HttpError."""
    request = exchange.request
    if request.header("content-encoding").lower() not in ("", "identity"):
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must not be compressed: Content-Encoding.")
    sent = media_types.parse_media(request.header("content-type"))
    if sent.name == "application/dicom":
        return sent
    if sent.name != "multipart/related" or sent.parameters.get("type", "").lower() not in _SENT:
        text = f'Send multipart/related; type="{DICOM}" (or {DICOM_JSON}, {DICOM_XML}), or {DICOM}.'
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
    if not is_boundary(sent.parameters.get("boundary", "")):
        raise HttpError(HTTPStatus.BAD_REQUEST, "The Content-Type has no boundary, or none that RFC 2046 allows.")
    return sent


def _receive(exchange: Exchange, sent: MediaType, receiver: StowReceiver) -> bool:
    """Feed the body to the receiver. False: it was cut, or is not what its Content-Type says."""
    if sent.name == DICOM:
        receiver.begin({})
        room = memoryview(bytearray(_PIECE))
        while count := exchange.read_body(room):
            receiver.write(room[:count])
        receiver.end()
        return True
    if sent.parameters.get("type", "").lower() not in (DICOM_JSON, DICOM_XML):
        return _read_parts(exchange, PartReader(sent.parameters["boundary"], receiver))
    if not _composing.acquire(blocking=False):
        text = "Others send metadata and bulk data now."
        raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": str(TRY_AGAIN_SECONDS)})
    try:
        parts = ComposedParts(receiver)
        is_whole = _read_parts(exchange, PartReader(sent.parameters["boundary"], parts))
        if is_whole:
            parts.finish()
        return is_whole
    finally:
        _composing.release()


_composing = threading.BoundedSemaphore(COMPOSED_AT_ONCE)


def _read_parts(exchange: Exchange, reader: PartReader) -> bool:
    try:
        while count := exchange.read_body(reader.room()):
            reader.took(count)
    except (BadMultipart, ConnectionEnded):
        return False
    return reader.is_whole
