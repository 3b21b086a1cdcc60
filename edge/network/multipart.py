"""The parts of a multipart body (RFC 2046 section 5.1), one after another, as they come.

Bytes are received into the reader's own buffer (`room`, `took`), and a sink gets views of it: nothing is copied on the
way. A preamble is passed over; a body that ends without the closing delimiter is cut (`is_whole`). Bounds: the headers
of a part, and a preamble of MAX_PREAMBLE bytes. `PartDelimiters` is for bodies of ours.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Protocol

MAX_PREAMBLE = 64 * 1024
MAX_PART_HEADERS, MAX_PART_HEADER_BYTES = 32, 8 * 1024
_BUFFER_BYTES = 256 * 1024
#: Blanks between a delimiter and the end of its line.
_MAX_PADDING = 256
#: RFC 2046 section 5.1.1; RFC 9110 section 5.6.2.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_OF_TYPE = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class BadMultipart(Exception):
    """The body is not what its Content-Type says."""


class PartSink(Protocol):
    """Where parts go."""

    def begin(self, headers: dict[str, str]) -> None: ...

    def write(self, data: memoryview) -> None:
        """The bytes are gone once this returns."""

    def end(self) -> None: ...


def is_boundary(text: str) -> bool:
    return bool(_BOUNDARY.fullmatch(text))


def find_boundary(content_type: str) -> str:
    """The boundary that the Content-Type of an answer names; empty where it names none."""
    found = _OF_TYPE.search(content_type)
    return found[1] if found is not None and is_boundary(found[1]) else ""


class PartDelimiters:
    """What surrounds the parts of a multipart/related body (RFC 2387) that we send.

    The boundary has 128 random bits: no part has it by accident or design.
    """

    def __init__(self, media_type: str) -> None:
        """`media_type`: of the parts."""
        self.boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self.boundary}'
        self.closing = f"\r\n--{self.boundary}--\r\n".encode()

    def open_part(self, content_type: str, fields: str = "") -> bytes:
        """What precedes a part; `fields`: more headers of it, each with the end of its line."""
        return f"\r\n--{self.boundary}\r\nContent-Type: {content_type}\r\n{fields}\r\n".encode()


class PartReader:
    """Takes the parts of one body to a sink."""

    def __init__(self, boundary: str, sink: PartSink) -> None:
        self.is_whole = False  # the closing delimiter has come
        self._sink, self._delimiter = sink, b"\r\n--" + boundary.encode("ascii")
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._buffer[:2] = b"\r\n"  # as if a line had ended before the first delimiter
        self._filled, self._passed = 2, 0  # bytes in the buffer, and of the preamble
        #: Reads on from a place of the buffer; returns where it stopped, and whether that needs more bytes.
        self._read: Callable[[int], tuple[int, bool]] = self._read_preamble

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._view[self._filled :]

    def took(self, count: int) -> None:
        """Take `count` bytes that have filled the room. Raises BadMultipart, and what the sink raises."""
        self._filled += count
        at, needs_more = 0, False
        while not needs_more:
            at, needs_more = self._read(at)
        left = self._filled - at
        self._buffer[:left] = self._buffer[at : self._filled]
        self._filled = left

    def feed(self, data: bytes) -> None:
        """Bytes that have been received elsewhere. Raises as `took`."""
        view = memoryview(data)
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.took(count)
            view = view[count:]

    # -- what may stand at a place ------------------------------------------------------------------------------------

    def _read_preamble(self, at: int) -> tuple[int, bool]:
        found, behind = self._find_delimiter(at)
        self._passed += found - at
        if self._passed > MAX_PREAMBLE:
            raise BadMultipart("the body does not begin with the boundary that its Content-Type names")
        return (found, True) if behind is None else (behind, False)

    def _read_headers(self, at: int) -> tuple[int, bool]:
        if self._buffer.startswith(b"\r\n", at, self._filled):
            end, behind = at, at + 2  # there are none
        else:
            end = self._buffer.find(b"\r\n\r\n", at, self._filled)
            behind = end + 4
        if (self._filled if end < 0 else end) - at > MAX_PART_HEADER_BYTES:
            raise BadMultipart("the headers of a part are too long")
        if end < 0:
            return at, True
        self._sink.begin(_parse_headers(bytes(self._buffer[at:end])))
        self._read = self._read_data
        return behind, False

    def _read_data(self, at: int) -> tuple[int, bool]:
        found, behind = self._find_delimiter(at)
        if found > at:
            self._sink.write(self._view[at:found])
        if behind is None:
            return found, True
        self._sink.end()
        return behind, False

    def _read_epilogue(self, at: int) -> tuple[int, bool]:
        """What follows the closing delimiter means nothing."""
        return self._filled, True

    # -- delimiters ---------------------------------------------------------------------------------------------------

    def _find_delimiter(self, at: int) -> tuple[int, int | None]:
        """Up to where there is none, and where what follows it begins; None: more bytes must come."""
        start = at
        while (found := self._buffer.find(self._delimiter, start, self._filled)) >= 0:
            behind = found + len(self._delimiter)
            line = bytes(self._buffer[behind : min(behind + _MAX_PADDING + 2, self._filled)])
            if line.startswith(b"--"):
                self.is_whole, self._read = True, self._read_epilogue
                return found, behind + 2
            rest = line.lstrip(b" \t")
            if rest.startswith(b"\r\n"):
                self._read = self._read_headers
                return found, behind + len(line) - len(rest) + 2
            if rest in (b"", b"\r") or line == b"-":
                if len(line) > _MAX_PADDING:
                    raise BadMultipart("a delimiter's line does not end")
                return found, None
            start = found + 2  # the line goes on: it is data
        return self._find_half_delimiter(max(start, self._filled - len(self._delimiter) + 1)), None

    def _find_half_delimiter(self, at: int) -> int:
        """Where the buffer ends with the beginning of a delimiter; its end where it does not."""
        found = self._buffer.rfind(b"\r", at, self._filled)
        is_half = found >= 0 and self._delimiter.startswith(self._buffer[found : self._filled])
        return found if is_half else self._filled


def _parse_headers(block: bytes) -> dict[str, str]:
    """Names in lower case. Raises BadMultipart."""
    lines = block.split(b"\r\n") if block else []
    if len(lines) > MAX_PART_HEADERS:
        raise BadMultipart("a part has too many headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise BadMultipart("a part has a header that is none")
        headers[name.decode("ascii").lower()] = value.decode("latin-1").strip()
    return headers
