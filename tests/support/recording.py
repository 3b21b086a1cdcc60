"""A peer that takes everything, and keeps what each association proposed: whom Edge calls, and for what."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from edge.dicom import items
from edge.dicom.command import DATA_SET, Command, CommandField, Element, response_to
from edge.dicom.items import Attributes
from tests.support.scripted import Link, ScriptedScp

CT = "1.2.840.10008.5.1.4.1.1.2"
_LEVEL, _CLASS, _UID, _STUDY, _SERIES = 0x00080052, 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
#: What it says that it has, beside what it is asked for by name.
STUDY, SERIES, OBJECT = "1.2.3", "1.2.3.4", "1.2.3.4.5"
_PENDING = 0xFF00


class Recorder(ScriptedScp):
    """Says success to every request; C-FIND of images finds what is named, else one object."""

    def __init__(self) -> None:
        super().__init__([self._answer])

    @property
    def proposed(self) -> set[str]:
        """Abstract syntaxes of all associations so far."""
        return {each.abstract_syntax for request in list(self.requests) for each in request.contexts}

    def _answer(self, link: Link, context: int, command: Command) -> None:
        pieces: list[bytes] = []
        if command.has_data_set:
            link.wire.read_data_set(context, lambda views: pieces.extend(map(bytes, views)))
        sop_class, syntax = link.contexts[context]
        if command.number(Element.COMMAND_FIELD) == CommandField.C_FIND_RQ and ".5.1.4.1.2." in sop_class:
            for found in _find(items.decode_items(b"".join(pieces), syntax)):
                answer = response_to(command, _PENDING) | {Element.DATA_SET_TYPE: DATA_SET}
                link.wire.send_message(context, answer, items.encode_items(found, syntax))
        link.respond(context, command, 0)


def _find(keys: Attributes) -> Sequence[Attributes]:
    has = {_LEVEL: keys.text(_LEVEL), _STUDY: keys.text(_STUDY) or STUDY}
    if has[_LEVEL] == "STUDY":
        return [items.item(has)]
    has[_SERIES] = keys.text(_SERIES) or SERIES
    if has[_LEVEL] == "SERIES":
        return [items.item(has)]
    named = keys.text(_UID).split("\\") if keys.text(_UID) else [OBJECT]
    return [items.item(has | {_UID: each, _CLASS: CT}) for each in named]


class WebRecorder:
    """The same as a DICOMweb server: keeps which services it was asked for, has one object, and gives nothing back."""

    def __init__(self) -> None:
        self.asked = asked = set[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.add("store")
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(200, {})

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                is_object = "/instances/" in path
                asked.add("retrieve" if is_object else "query")
                uids = {"0020000D": STUDY, "0020000E": SERIES, "00080018": OBJECT, "00080016": CT}
                found = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}
                self._answer(404 if is_object else 200, [found])

            def _answer(self, status: int, said: object) -> None:
                body = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> WebRecorder:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
