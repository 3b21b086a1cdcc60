"""An archive that is asked by QIDO-RS, and gives objects back by WADO-RS (PS3.18 sections 10.6 and 10.4).

An object's data set is handed over piece by piece, whatever its size. Raises PeerError, ServiceRefused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from edge.config.sections import Destination
from edge.dicom.failures import RequestFailed, ServiceRefused
from edge.dicom.items import Attributes
from edge.dicom.json import from_json
from edge.dicom.part10 import MAX_META, parse_meta
from edge.dicom.pdu_reader import Sink
from edge.errors import EdgeError, PeerError, Unreadable
from edge.network.http_client import HttpResult, HttpStream
from edge.network.multipart import BadMultipart, PartReader, find_boundary
from edge.network.web_service import WebConnection, WebService
from edge.query.levels import OF_ANSWER, UNIQUE_KEYWORDS, Level, tag_of
from edge.query.located import Located
from edge.query.matching import EMPTY, QUERY_LEVEL, is_universal

T = TypeVar("T")
#: Answers of one request; where it holds as many, the next ones are asked for.
QIDO_PAGE = 1000
_MOST_BYTES = 64 << 20
_JSON = "application/dicom+json"
ANY_OBJECT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
#: What says that asking again soon is of no use.
_LASTING = frozenset({401, 403, 404, 405, 406, 410, 501})
_WORDS = {Level.PATIENT: "studies", Level.STUDY: "studies", Level.SERIES: "series", Level.IMAGE: "instances"}


class WebExchange:
    """One connection to such an archive."""

    def __init__(self, destination: Destination) -> None:
        """Connect. Raises PeerError."""
        self._connection = WebConnection(WebService(destination))
        self.kill, self.close = self._connection.kill, self._connection.close

    def find(self, keys: Attributes) -> Iterator[Attributes]:
        """What of these keys the archive has, the level among them; what QIDO-RS cannot match is left to the asker."""
        path, given = _search_path(keys)
        offset, known = 0, set[str]()
        while True:
            page = self._find_page(f"{path}?{given}limit={QIDO_PAGE}&offset={offset}", keys)
            fresh = {repr(sorted(each.items())): each for each in page}
            yield from (each for text, each in fresh.items() if text not in known)
            if len(page) < QIDO_PAGE or fresh.keys() <= known:
                return
            known |= fresh.keys()
            offset += len(page)

    def _find_page(self, target: str, asked: Container[int]) -> list[Attributes]:
        found = find_page(self._connection, target, from_json)
        return [Attributes({tag: value for tag, value in each.items() if tag in asked}) for each in found]

    def open_object(self, instance: Located) -> WebObject | None:
        """One object, whose data set is still to be read; None: the archive does not have it."""
        wanted = (instance.study_uid, instance.series_uid, instance.sop_instance_uid)
        path = "/studies/{}/series/{}/instances/{}".format(*map(quote, wanted))
        answer = self._connection.open(path, ANY_OBJECT)
        if answer.status == 200:
            return WebObject(answer)
        answer.close()
        if answer.status in (204, 404, 410):
            return None
        raise _failure("WADO-RS", answer)


def find_page(connection: WebConnection, target: str, read: Callable[[Any], T]) -> list[T]:
    """What one request of QIDO-RS finds; `read` makes it of a data set in JSON. Raises PeerError, ServiceRefused."""
    answer = connection.get(target, _JSON, _MOST_BYTES)
    if answer.status in (204, 404):
        return []  # nothing is found; a series that is not there is 404 at some servers
    if answer.status != 200:
        raise _failure("QIDO-RS", answer)
    try:
        return [read(each) for each in json.loads(answer.body or b"[]")]
    except (RecursionError, ValueError, TypeError, LookupError, AttributeError, Unreadable):
        raise PeerError("an answer to QIDO-RS that cannot be read") from None


def _search_path(keys: Attributes) -> tuple[str, str]:
    """The resource, and the parameters, which end with an ampersand."""
    level = Level[keys.text(QUERY_LEVEL)]
    path, used = "", {QUERY_LEVEL}
    for above in (Level.STUDY, Level.SERIES):
        uid = keys.text(tag_of(UNIQUE_KEYWORDS[above]))
        if above < level and uid and re.fullmatch(r"[0-9.]+", uid) and (above is Level.STUDY or path):
            path += f"/{_WORDS[above]}/{uid}"
            used.add(tag_of(UNIQUE_KEYWORDS[above]))
    given = []
    for tag, key in keys.items():
        if tag in used or tag in OF_ANSWER:
            continue
        is_list = key.vr == "UI" and len(key.values) > 1
        if key.vr == "SQ" or is_universal(key) or (len(key.values) != 1 and not is_list) or EMPTY in key.values:
            given.append(("includefield", f"{tag:08X}"))
        else:
            given.append((f"{tag:08X}", ",".join(key.values)))
    text = urlencode(given, quote_via=quote)
    return f"{path}/{_WORDS[level]}", f"{text}&" if text else ""


def _failure(service: str, answer: HttpResult | HttpStream) -> EdgeError:
    text = f"{service} failed: it answers {answer.phrase}"
    return ServiceRefused(text) if answer.status in _LASTING else RequestFailed(text, answer.status)


class WebObject:
    """The object in the body of an answer, alone or as the first part of a multipart body (RFC 2046)."""

    def __init__(self, answer: HttpStream) -> None:
        """Read up to the data set. Raises PeerError."""
        self._answer, self._pieces = answer, answer.pieces()
        self._reader = self._open_parts(answer.headers.get("content-type", ""))
        self._parts, self._data = 0, list[bytes]()  # bytes of the first part that are not handed over yet
        self.close = answer.close
        head = b""
        while len(head) < MAX_META and not _has_whole_meta(head) and self._read_more():
            head, self._data = head + b"".join(self._data), []
        try:
            meta = parse_meta(head[:MAX_META])
        except Unreadable as error:
            self.close()
            raise PeerError(f"an object of WADO-RS that cannot be read: {error}") from None
        self.context_key, self.sop_instance_uid = meta.context_key, meta.sop_instance_uid
        self._data = [head[meta.dataset_offset :]]

    def _open_parts(self, content_type: str) -> PartReader | None:
        if not content_type.lower().startswith("multipart/"):
            return None
        boundary = find_boundary(content_type)
        if not boundary:
            self._answer.close()
            raise PeerError("an answer to WADO-RS without a boundary")
        return PartReader(boundary, self)

    def read_into(self, sink: Sink) -> None:
        """Hand over the data set. Raises PeerError where it is cut, and what the sink raises."""
        while True:
            data, self._data = self._data, []
            if data:
                sink([memoryview(each) for each in data])
            elif not self._read_more():
                break
        if self._reader is not None and not self._reader.is_whole:
            raise PeerError("an answer to WADO-RS that ends early")

    def _read_more(self) -> bool:
        """Read the next piece of the body; False at its end."""
        piece = next(self._pieces, b"")
        if self._reader is None:
            self._data += [piece] if piece else []
            return bool(piece)
        try:
            self._reader.feed(piece)
        except BadMultipart as error:
            self.close()
            raise PeerError(f"an answer to WADO-RS that cannot be read: {error}") from None
        return bool(piece)

    # -- edge.network.multipart.PartSink ------------------------------------------------------------------------------

    def begin(self, headers: dict[str, str]) -> None:
        self._parts += 1

    def write(self, data: memoryview) -> None:
        if self._parts == 1:  # one object was asked for
            self._data.append(bytes(data))

    def end(self) -> None: ...


def _has_whole_meta(head: bytes) -> bool:
    """Is the File Meta Information here, as long as it says that it is (PS3.10 section 7.1)?"""
    return len(head) >= 144 and len(head) >= 152 + int.from_bytes(head[140:144], "little")
