"""Who takes notices and heartbeats in the tests: a real SMTP server, a real HTTPS server, rsyslog. Each on 127.0.0.1.

`stop` and `start` cut the link to it and mend it; what it took, it keeps.
"""

from __future__ import annotations

import email
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Protocol
from aiosmtpd.smtp import AuthResult, Envelope, Session

from tests.support.peers import Peer, free_port, listens, requires


class Authority:
    """A certificate authority for one test, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._ca = folder, trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key for a host name or address."""
        made = self._ca.issue_cert(name)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        made.cert_chain_pems[0].write_to_path(certificate)
        made.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return certificate, key

    def server(self, name: str = "127.0.0.1", ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


@dataclass
class Mail:
    sender: str
    recipients: list[str]
    content: EmailMessage


class MailServer:
    """An SMTP server. `answer` may refuse: it is asked with the recipient (RCPT) or an empty string (DATA)."""

    def __init__(
        self, authority: Authority, security: str = "starttls", login: tuple[str, str] | None = ("edge", "s3cr3t")
    ) -> None:
        self.port, self.mails = free_port(), list[Mail]()
        self.answer: Callable[[str], str] = lambda recipient: ""
        self.drop_after_data = 0  # so many times the connection ends before the answer
        self._security, self._login, self._context = security, login, authority.server()
        self._controller: Controller | None = None

    def start(self) -> MailServer:
        given: dict[str, Any] = {"auth_required": self._login is not None, "authenticator": self._authenticate}
        if self._security == "starttls":
            given |= {"tls_context": self._context, "require_starttls": True}
        if self._security == "tls":
            given |= {"ssl_context": self._context, "auth_require_tls": False}
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **given)
        self._controller.start()
        return self

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _authenticate(self, _server: object, _session: object, _envelope: object, _how: str, given: Any) -> AuthResult:
        assert self._login
        matches = (given.login.decode(), given.password.decode()) == self._login
        return AuthResult(success=matches, handled=False)

    # aiosmtpd's names for what a handler may answer

    async def handle_RCPT(self, _server: Protocol, _: Session, envelope: Envelope, address: str, *__: object) -> str:
        if refused := self.answer(address):
            return refused
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Protocol, _: Session, envelope: Envelope) -> str:
        if refused := self.answer(""):
            return refused
        content = email.message_from_bytes(envelope.content or b"", policy=POLICY)  # type: ignore[arg-type]
        self.mails.append(Mail(envelope.mail_from or "", list(envelope.rcpt_tos), content))  # type: ignore[arg-type]
        if self.drop_after_data:
            self.drop_after_data -= 1
            server.transport.abort()
        return "250 taken"


@dataclass
class Taken:
    """One request that an HTTPS receiver took."""

    path: str
    headers: dict[str, str]
    body: bytes
    json: Any = field(default=None)


class HttpsReceiver:
    """Takes POSTs. `answer` decides the status; a redirect leads to itself."""

    def __init__(self, authority: Authority, name: str = "127.0.0.1", ask_client: bool = False) -> None:
        self.port, self.taken = free_port(), list[Taken]()
        self.answer: Callable[[Taken], int] = lambda taken: 204
        self._context = authority.server(name, ask_client)
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/heartbeat"

    @property
    def documents(self) -> list[Any]:
        return [each.json for each in self.taken]

    def start(self) -> HttpsReceiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken = Taken(self.path, dict(self.headers), body, json.loads(body))
                status = receiver.answer(taken)
                if 200 <= status < 300:
                    receiver.taken.append(taken)
                self.send_response(status)
                self.send_header("Location", receiver.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that broke off is part of the test

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()


class Rsyslog(Peer):
    """rsyslogd as Debian ships it: takes UDP, TCP and TLS, each on its port, and writes what it understood as JSON."""

    name = "rsyslog"

    def __init__(self, directory: Path, authority: Authority) -> None:
        super().__init__(directory)
        self.udp, self.tcp, self.tls = free_port(), free_port(), free_port()
        self.out = directory / "messages.json"
        certificate, key = authority.issue("localhost")
        self.config = directory / "rsyslog.conf"
        self.config.write_text(_RSYSLOG.format(self=self, ca=authority.ca, certificate=certificate, key=key))

    def command(self) -> list[str]:
        return [requires("rsyslogd"), "-n", "-f", str(self.config), "-i", str(self.directory / "rsyslog.pid")]

    def is_ready(self) -> bool:
        return all(listens(self.pid, port) for port in (self.tcp, self.tls))

    @property
    def messages(self) -> list[dict[str, str]]:
        if not self.out.exists():
            return []
        return [json.loads(line) for line in self.out.read_text("utf-8").splitlines() if line.endswith("}")]


_RSYSLOG = """
global(workDirectory="{self.directory}"
       DefaultNetstreamDriverCAFile="{ca}"
       DefaultNetstreamDriverCertFile="{certificate}"
       DefaultNetstreamDriverKeyFile="{key}")
module(load="imudp")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
module(load="imptcp")
template(name="json" type="list") {{
    constant(value="{{")
    property(name="timereported" dateFormat="rfc3339" format="jsonf" outname="at") constant(value=",")
    property(name="pri" format="jsonf" outname="pri") constant(value=",")
    property(name="hostname" format="jsonf" outname="host") constant(value=",")
    property(name="app-name" format="jsonf" outname="app") constant(value=",")
    property(name="msgid" format="jsonf" outname="msgid") constant(value=",")
    property(name="protocol-version" format="jsonf" outname="version") constant(value=",")
    property(name="inputname" format="jsonf" outname="input") constant(value=",")
    property(name="msg" format="jsonf" outname="msg")
    constant(value="}}\\n")
}}
ruleset(name="all") {{ action(type="omfile" file="{self.out}" template="json") }}
input(type="imudp" address="127.0.0.1" port="{self.udp}" ruleset="all")
input(type="imptcp" address="127.0.0.1" port="{self.tcp}" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="{self.tls}" ruleset="all")
"""
