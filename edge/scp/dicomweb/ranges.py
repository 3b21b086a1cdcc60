"""Conditional and range requests (RFC 9110 sections 13 and 14): pure, of a body that is parts of known lengths."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus

from edge.scp.dicomweb.exchange import FilePart, WebAnswer
from edge.scp.dicomweb.protocol import HttpError, HttpRequest
from edge.store.held import HeldInstance

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def etag_of(found: Sequence[HeldInstance], form: str = "") -> str:
    """An entity tag of the instances, their bytes, and the form in which they go (RFC 9110 section 8.8.3)."""
    running = hashlib.sha256(form.encode("utf-8", "replace"))
    for each in found:
        running.update(each.sop_instance_uid.encode() + each.sha256 + repr(sorted(each.today.items())).encode())
    return f'"{running.hexdigest()[:32]}"'


def not_modified(request: HttpRequest, etag: str) -> bool:
    """Does the caller have this already?"""
    said = [each.strip().removeprefix("W/") for each in request.header("if-none-match").split(",")]
    return etag in said or "*" in said


def count_bytes(parts: Iterable[bytes | FilePart]) -> int:
    return sum(each.count if isinstance(each, FilePart) else len(each) for each in parts)


def with_range(request: HttpRequest, headers: Mapping[str, str], parts: Sequence[bytes | FilePart]) -> WebAnswer:
    """The body, or the one range of it that the request asks for; several ranges get all of it."""
    whole, given = count_bytes(parts), {**headers, "Accept-Ranges": "bytes"}
    match = _RANGE.fullmatch(request.header("range").replace(" ", ""))
    condition = request.header("if-range")
    if match is None or not (match[1] or match[2]) or (condition and condition != headers.get("ETag")):
        return WebAnswer(HTTPStatus.OK, given, parts=parts, length=whole)
    first = int(match[1]) if match[1] else max(0, whole - int(match[2]))
    last = min(int(match[2]), whole - 1) if match[1] and match[2] else whole - 1
    if first > last or first >= whole:
        text = "The range begins after the end."
        raise HttpError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, text, {"Content-Range": f"bytes */{whole}"})
    given["Content-Range"] = f"bytes {first}-{last}/{whole}"
    cut = list(_cut(parts, first, last + 1))
    return WebAnswer(HTTPStatus.PARTIAL_CONTENT, given, parts=cut, length=last + 1 - first)


def _cut(parts: Iterable[bytes | FilePart], first: int, end: int) -> Iterator[bytes | FilePart]:
    at = 0
    for each in parts:
        size = each.count if isinstance(each, FilePart) else len(each)
        begin, stop = max(first - at, 0), min(end - at, size)
        if begin < stop:
            if isinstance(each, FilePart):
                yield replace(each, offset=each.offset + begin, count=stop - begin)
            else:
                yield each[begin:stop]
        at += size
