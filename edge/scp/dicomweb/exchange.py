"""One request with its caller, and the answer to it: what resources take and give."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from edge.network.tls import Certificate
from edge.scp.dicomweb.access import WebCaller
from edge.scp.dicomweb.protocol import HttpRequest

#: Where the services are.
WEB_ROOT = "/dicom-web"
TEXT_MEDIA, DICOM, DICOM_JSON, DICOM_XML = (
    "text/plain; charset=utf-8",
    "application/dicom",
    "application/dicom+json",
    "application/dicom+xml",
)


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of a file."""

    path: Path
    offset: int
    count: int


#: What may stand in an address of ours that a caller or its proxy has named.
_HOST, _PATH = re.compile(r"[A-Za-z0-9.\-_:\[\]]{1,255}"), re.compile(r"(?:/[A-Za-z0-9.\-_~]{1,64}){1,8}")

#: Sends a part of a body.
SendPart = Callable[[bytes | FilePart], None]


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """An answer: a body in memory, or parts that are sent one after another.

    `length`: of all parts in bytes; None where it is not known, then what raises cuts the body off. `write` sends the
    last parts as they come. `opened`: what the body needs, closed once it was sent, or is not sent.
    """

    status: HTTPStatus
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    parts: Iterable[bytes | FilePart] | None = None
    length: int | None = 0
    write: Callable[[SendPart], None] | None = None
    opened: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request of a caller that is admitted."""

    request: HttpRequest
    caller: WebCaller
    address: str
    is_secure: bool
    read_body: Callable[[memoryview], int]  # as of edge.scp.dicomweb.protocol.HttpConnection
    certificate: Certificate | None = None  # that the caller has shown

    @property
    def base(self) -> str:
        """What our own addresses begin with, as the caller writes them; a path alone where it does not say its host."""
        host = self.request.header("x-forwarded-host") or self.request.header("host")
        scheme = self.request.header("x-forwarded-proto") or ("https" if self.is_secure else "http")
        root = self.request.header("x-forwarded-prefix").rstrip("/") or WEB_ROOT
        is_usable = _HOST.fullmatch(host) and scheme.isalpha() and _PATH.fullmatch(root)
        return f"{scheme}://{host}{root}" if is_usable else WEB_ROOT

    @property
    def accept(self) -> str:
        """What the caller accepts; a query parameter goes before the header (PS3.18 section 8.3.3.1)."""
        return ", ".join(self.values("accept")) or self.request.header("accept")

    def values(self, name: str) -> list[str]:
        """The values of a query parameter."""
        return [value for key, value in self.request.query if key == name]
