"""The parts of a multipart body (RFC 2046 section 5.1), one after another, as they come.

By python_multipart's parser, with what it leaves open: a preamble is passed over, and a body that ends without the
closing delimiter is cut (`is_whole`). Bounds: the headers of a part, and a preamble of MAX_PREAMBLE bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

MAX_PREAMBLE = 64 * 1024
MAX_PART_HEADERS, MAX_PART_HEADER_BYTES = 32, 8 * 1024
#: RFC 2046 section 5.1.1.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")


class BadMultipart(Exception):
    """The body is not what its Content-Type says."""


class PartSink(Protocol):
    """Where parts go."""

    def begin(self, headers: dict[str, str]) -> None: ...

    def write(self, data: memoryview) -> None: ...

    def end(self) -> None: ...


def is_boundary(text: str) -> bool:
    return bool(_BOUNDARY.fullmatch(text))


class PartReader:
    """Feeds the parts of one body to a sink."""

    def __init__(self, boundary: str, sink: PartSink) -> None:
        self.is_whole = False  # the closing delimiter has come
        self._boundary = b"--" + boundary.encode("ascii")
        self._preamble: bytes | None = b"\r\n"  # None: the first delimiter has come
        self._headers: dict[str, str] = {}
        self._name, self._value = bytearray(), bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": lambda: sink.begin(self._headers),
                "on_part_data": lambda data, start, end: sink.write(memoryview(data)[start:end]),
                "on_part_end": sink.end,
                "on_end": self._end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> None:
        """Raises BadMultipart, and what the sink raises."""
        if self._preamble is not None:
            data = self._pass_preamble(self._preamble + data)
        if not data or self.is_whole:
            return  # what follows the closing delimiter means nothing
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise BadMultipart(f"the body is no multipart message: {error}") from None

    def _pass_preamble(self, data: bytes) -> bytes:
        """From the first delimiter on; nothing until it has come."""
        at = data.find(b"\r\n" + self._boundary)
        if at >= 0:
            self._preamble = None
            return data[at + 2 :]
        if len(data) > MAX_PREAMBLE:
            raise BadMultipart("the body does not begin with the boundary that its Content-Type names")
        self._preamble = data
        return b""

    def _begin(self) -> None:
        self._headers = {}

    def _end_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1").strip()
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        self.is_whole = True


#: Makes the reader of a body, and ends it: raises BadMultipart where it is not whole.
_Feed = Callable[[bytes], None]
