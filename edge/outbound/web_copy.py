"""What a DICOMweb destination has, by QIDO-RS, given back by WADO-RS (edge.storage.restore.CopySource).

Limits: an object is held in memory while it comes, MOST_BYTES at most; a longer one counts as not given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edge.config.sections import Destination
from edge.dicom.failures import RequestFailed, ServiceRefused
from edge.dicom.inventory import ListedInstance, Taken
from edge.dicom.part10 import parse_meta
from edge.errors import PeerError, Unreadable
from edge.network.http_client import HttpResult
from edge.outbound.transport.stow import WebDestination, WebSession

MOST_BYTES = 512 << 20
_PAGE, _MOST_PAGES, _MOST_ANSWER = 1000, 1000, 32 << 20
_STUDY, _SERIES, _CLASS, _INSTANCE = "0020000D", "0020000E", "00080016", "00080018"
#: As it is kept; some servers know parts alone.
_ACCEPT = 'application/dicom; transfer-syntax=*, multipart/related; type="application/dicom"; transfer-syntax=*'


class WebCopy:
    """See the module's docstring."""

    def __init__(self, destination: Destination) -> None:
        self._to = WebDestination(destination)

    def list_studies(self, dates: str) -> list[str]:
        where = f"?StudyDate={dates}&" if dates else "?"
        with self._open() as session:
            return list(dict.fromkeys(_read(each, _STUDY) for each in _search(session, f"/studies{where}")))

    def list_instances(self, study_uid: str) -> dict[str, list[ListedInstance]]:
        found: dict[str, list[ListedInstance]] = {}
        with self._open() as session:
            for series in _search(session, f"/studies/{study_uid}/series?"):
                uid = _read(series, _SERIES)
                listed = _search(session, f"/studies/{study_uid}/series/{uid}/instances?")
                found[uid] = [ListedInstance(_read(each, _INSTANCE), _read(each, _CLASS)) for each in listed]
        return found

    def fetch(self, study_uid: str, series_uid: str, _sop_class_uid: str, uids: Sequence[str], take: Taken) -> set[str]:
        came = set()
        with self._open() as session:
            for uid in uids:
                path = f"/studies/{study_uid}/series/{series_uid}/instances/{uid}"
                answer = session.get(path, _ACCEPT, MOST_BYTES)
                if answer.status == 200 and _take(answer, uid, take):
                    came.add(uid)
                elif answer.status not in (200, 404, 410):
                    raise _failure("WADO-RS", answer)
        return came

    @contextmanager
    def _open(self) -> Iterator[WebSession]:
        session = WebSession(self._to)
        try:
            yield session
        finally:
            session.close()


def _take(answer: HttpResult, uid: str, take: Taken) -> bool:
    """Hand over an object's data set; False: it is another, or none."""
    body = memoryview(answer.body)
    if answer.headers.get("content-type", "").lower().startswith("multipart/"):
        body = _first_part(answer.body)
    try:
        meta = parse_meta(bytes(body[: 1 << 20]))
    except Unreadable:
        return False
    if meta.sop_instance_uid != uid:
        return False
    sink, end = take(meta.kind, uid)
    sink([body[meta.dataset_offset :]])
    end()
    return True


def _first_part(body: bytes) -> memoryview:
    """The content of the only part of a multipart message (RFC 2046 section 5.1.1)."""
    start = body.find(b"--")
    boundary = body[start : body.find(b"\r\n", start)]
    begin = body.find(b"\r\n\r\n", start) + 4
    end = body.rfind(b"\r\n" + boundary)
    return memoryview(body)[begin : max(begin, end)]


def _search(session: WebSession, path: str) -> Iterator[Any]:
    """Each data set that is found, page by page."""
    for page in range(_MOST_PAGES):
        answer = session.get(f"{path}limit={_PAGE}&offset={page * _PAGE}", "application/dicom+json", _MOST_ANSWER)
        if answer.status in (204, 404):
            return
        if answer.status != 200:
            raise _failure("QIDO-RS", answer)
        try:
            found = list(json.loads(answer.body or b"[]"))
        except (ValueError, TypeError):
            raise PeerError("an answer to QIDO-RS that cannot be read") from None
        yield from found
        if len(found) < _PAGE:
            return


def _read(data_set: Any, tag: str) -> str:
    try:
        return str(data_set[tag]["Value"][0])
    except (KeyError, IndexError, TypeError):
        raise PeerError("an answer to QIDO-RS that cannot be read") from None


def _failure(what: str, answer: HttpResult) -> Exception:
    text = f"{what} failed: it answers {answer.phrase}"
    is_lasting = answer.status in (401, 403, 405, 406, 501)
    return ServiceRefused(text) if is_lasting else RequestFailed(text, answer.status)
