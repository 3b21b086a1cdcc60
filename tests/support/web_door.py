"""A gateway with an open web door, and requests to it as clients write them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.peers import Edge, StoreScp, free_port

TOKEN = "a-token-of-the-tests-0123456789"
BOUNDARY = "boundary-of-the-tests"


class WebEdge(Edge):
    """Edge with [dicomweb] and two clients: `viewer` may do all, `looker` may not store."""

    def __init__(self, directory: Path, config: str = "", *, web: str = "", **more: Any) -> None:
        self.web_port = free_port()
        super().__init__(directory, "", **more)
        for name in ("viewer", "looker"):
            path = directory / f"{name}-token"
            path.write_text(f"{name}-{TOKEN}\n")
            path.chmod(0o600)
        self.configure(
            f"[dicomweb]\nport = {self.web_port}\n{web}\n"
            f'[client.viewer]\ntoken = "{directory}/viewer-token"\nservices = ["query", "retrieve", "store"]\n'
            f'[client.looker]\ntoken = "{directory}/looker-token"\n{config}'
        )

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}/dicom-web"

    def web(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        *,
        client: str = "viewer",
    ) -> Answer:
        """One request on a connection of its own. An iterable body goes chunked."""
        given = {"Authorization": f"Bearer {client}-{TOKEN}"} if client else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=60)
        try:
            connection.request(method, f"/dicom-web{path}", body, {**given, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def stow(self, *parts: bytes, study: str = "", **more: Any) -> Answer:
        """STOW-RS of some files."""
        path = f"/studies/{study}" if study else "/studies"
        return self.web("POST", path, {"Content-Type": related()}, multipart(parts), **more)


#: Pages of these may call a gateway that several files of tests share.
ORIGINS = ("https://viewer.example.org", "https://ohif.example.org")
#: Its objects of this patient go to an archive; those of others stay.
ROUTED_PATIENT = "ROUTED"
_SHARED = """
[query]
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
confirm = "status"
[route.some]
to = ["archive"]
when = {{ PatientID = "{patient}" }}
[hl7]
port = {hl7}
[feed.his]
hosts = ["127.0.0.1"]
authority = "MTF0067"
"""


class SharedEdge(WebEdge):
    """It also has an archive, which is started beside it, and takes HL7."""

    def __init__(self, directory: Path) -> None:
        self.archive, self.hl7_port = StoreScp(directory / "archive"), free_port()
        config = _SHARED.format(archive=self.archive.port, hl7=self.hl7_port, patient=ROUTED_PATIENT)
        super().__init__(directory / "edge", config, web=f"origins = {json.dumps(ORIGINS)}")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def stored(self) -> list[str]:
        """The SOP Instance UIDs that STOW-RS names as stored."""
        return [_value(each, "00081155") for each in self.json().get("00081199", {}).get("Value", [])]

    def failed(self) -> dict[str, int]:
        """SOP Instance UID -> Failure Reason."""
        items = self.json().get("00081198", {}).get("Value", [])
        return {_value(each, "00081155"): int(_value(each, "00081197")) for each in items}


def _value(data_set: Any, tag: str) -> Any:
    return data_set[tag].get("Value", [""])[0]


def related(boundary: str = BOUNDARY) -> str:
    return f'multipart/related; type="application/dicom"; boundary={boundary}'


def multipart(
    parts: Iterable[bytes], boundary: str = BOUNDARY, headers: str = "Content-Type: application/dicom"
) -> bytes:
    head = f"--{boundary}\r\n{headers}\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
