"""Archives that are reached by DICOMweb: Orthanc with its plugin, and a server that answers what a test says."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edge.dicom.part10 import parse_meta
from tests.support.peers import Orthanc, absent

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def web_plugin(directory: Path) -> Path:
    """A folder of plugins with the library itself."""
    if not PLUGIN.exists():
        absent("orthanc-dicomweb (see packaging/test-packages)")
    plugins = directory / "Plugins"
    plugins.mkdir(parents=True)
    (plugins / PLUGIN.name).write_bytes(PLUGIN.resolve().read_bytes())
    return plugins


def web_orthanc(directory: Path, **settings: Any) -> Orthanc:
    """Orthanc that serves DICOMweb below /dicom-web/. Its plugin wants the library itself, in a folder of plugins."""
    plugins = web_plugin(directory)
    return Orthanc(directory, 1, Plugins=[str(plugins)], DicomWeb={"Enable": True, "Root": "/dicom-web/"}, **settings)


@dataclass
class Received:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    began: float = 0.0  # by the monotonic clock, before its body was read

    @property
    def boundary(self) -> str:
        return re.search(r"boundary=(\S+)", self.headers["content-type"])[1]  # type: ignore[index]

    @property
    def files(self) -> list[bytes]:
        """The parts of a STOW-RS."""
        parts = self.body.split(f"\r\n--{self.boundary}".encode())[1:-1]
        return [part.partition(b"\r\n\r\n")[2] for part in parts]

    @property
    def uids(self) -> list[str]:
        return [parse_meta(part[:65536]).sop_instance_uid for part in self.files]


@dataclass
class Said:
    """An answer: status, body, headers; `cut`: the connection ends without one."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


Script = Callable[[Received], Said]


class WebArchive:
    """Answers each request as `script` says; what came is in `received`."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.script, self.received = script, list[Received]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                began = time.monotonic()
                length = int(self.headers.get("Content-Length", "0"))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Received(self.command, self.path, headers, self.rfile.read(length), began)
                outer.received.append(request)
                said = outer.script(request)
                if said.cut:
                    self.close_connection = True
                    return
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body)))
                self.end_headers()
                self.wfile.write(said.body)

            do_GET = do_POST = _serve

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        self.url = (
            f"{'https' if context else 'http'}://{'localhost' if host == '127.0.0.1' else host}:{self.port}/dicom-web"
        )
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def stores(self) -> list[Received]:
        return [each for each in self.received if each.method == "POST" and each.path.endswith("/studies")]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def stored(*uids: str, failed: dict[str, int] | None = None, warned: dict[str, int] | None = None) -> bytes:
    """The JSON of an answer to STOW-RS."""
    warned = warned or {}

    def item(uid: str, tag: str = "", value: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
        return found | ({tag: {"vr": "US", "Value": [value]}} if tag else {})

    referenced = [item(uid, "00081196" if uid in warned else "", warned.get(uid, 0)) for uid in uids]
    return json.dumps(
        {
            "00081199": {"vr": "SQ", "Value": referenced},
            "00081198": {"vr": "SQ", "Value": [item(uid, "00081197", why) for uid, why in (failed or {}).items()]},
        }
    ).encode()


def take_all(request: Received) -> Said:
    """Store everything, and find it again."""
    if request.method == "POST":
        return Said(200, stored(*request.uids), {"Content-Type": "application/dicom+json"})
    return Said(200, b"[]", {"Content-Type": "application/dicom+json"})
