"""A real audit record repository for the tests: rsyslog with its own configuration, over TLS, TCP or UDP."""

from __future__ import annotations

import re
from pathlib import Path

import trustme

from tests.support.audit import Told
from tests.support.peers import Peer, free_port, listens, requires

FRAME = re.compile(r"<(\d+)>1 (\S+) (\S+) (\S+) (\S+) (\S+) - \ufeff(.*)")


class Repository(Peer):
    """rsyslogd that writes what it gets, a message a line. With TLS it asks for a certificate of its authority."""

    name = "rsyslog"

    def __init__(self, directory: Path, transport: str = "tls") -> None:
        super().__init__(directory)
        self.transport, self.port = transport, free_port()
        self.store = directory / "audit.log"
        self._certificates()
        self.configuration = directory / "rsyslog.conf"
        self.configuration.write_text(self._configuration())

    def _certificates(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.directory / "ca.pem"))
        for name, shown in (("server", authority.issue_cert("localhost")), ("edge", authority.issue_cert("edge.test"))):
            (self.directory / f"{name}.pem").write_bytes(b"".join(each.bytes() for each in shown.cert_chain_pems))
            key = self.directory / f"{name}.key"
            key.touch(mode=0o600)
            key.write_bytes(shown.private_key_pem.bytes())

    def _configuration(self) -> str:
        tls = {
            "defaultNetstreamDriverCAFile": "ca.pem",
            "defaultNetstreamDriverCertFile": "server.pem",
            "defaultNetstreamDriverKeyFile": "server.key",
        }
        files = "".join(f' {key}="{self.directory / name}"' for key, name in tls.items())
        driver = 'streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid"'
        module = {"tls": f'imtcp" {driver}', "tcp": 'imtcp"', "udp": 'imudp"'}[self.transport]
        kind = "imudp" if self.transport == "udp" else "imtcp"
        return (
            f'global(workDirectory="{self.directory}" maxMessageSize="64k"'
            f' parser.escapeControlCharactersOnReceive="off"{files if self.transport == "tls" else ""})\n'
            f'module(load="{module})\n'
            f'input(type="{kind}" address="127.0.0.1" port="{self.port}")\n'
            'template(name="whole" type="string" string="%rawmsg%\\n")\n'
            f'action(type="omfile" file="{self.store}" template="whole")\n'
        )

    def command(self) -> list[str]:
        return [requires("rsyslogd"), "-n", "-f", str(self.configuration), "-i", str(self.directory / "rsyslog.pid")]

    def is_ready(self) -> bool:
        return self.transport == "udp" or listens(self.pid, self.port)

    def section(self, more: str = "") -> str:
        """The gateway's configuration for it."""
        files = "".join(
            f'{key} = "{self.directory / name}"\n'
            for key, name in (("ca", "ca.pem"), ("certificate", "edge.pem"), ("client_key", "edge.key"))
        )
        here = f'[audit]\nhost = "localhost"\nport = {self.port}\ntransport = "{self.transport}"\n'
        return here + (files if self.transport == "tls" else "") + more

    def lines(self) -> list[str]:
        """Whole lines: what rsyslog is writing at the moment is none yet."""
        text = self.store.read_text("utf-8") if self.store.exists() else ""
        return text.split("\n")[:-1]

    def frames(self) -> list[tuple[str, ...]]:
        """(PRI, time, host, application, process, MSGID, message) of each."""
        found = [FRAME.fullmatch(line) for line in self.lines()]
        assert all(found), self.lines()
        return [each.groups() for each in found if each]

    def told(self) -> list[Told]:
        """Every message, each valid by the schema."""
        return [Told(frame[-1]) for frame in self.frames()]

    def has(self, event: str, kind: str | None = None) -> list[Told]:
        """The messages of one event, and one type of it."""
        return [each for each in self.told() if each.event == event and kind in (None, each.type)]
