"""The way to the repository: what a broken connection may have swallowed is sent again, and nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge.config.audit import Audit
from edge.config.channels import AUDIT_CHANNEL
from edge.errors import Transient
from edge.messaging import Courier, Rejected
from edge.messaging.audit.channel import GRACE_SECONDS, AuditChannel
from edge.messaging.channels import open_syslog
from edge.messaging.syslog import Syslog
from edge.store import outbox
from edge.store.database import Store
from edge.store.outbox import Message
from tests.support.peers import wait_until
from tests.support.repository import Repository


class Listener:
    """A repository that takes connections and reads only when the test says so."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.open: list[socket.socket] = []

    def accept(self) -> socket.socket:
        self.server.settimeout(60)
        sock, _ = self.server.accept()
        sock.settimeout(60)
        self.open.append(sock)
        return sock

    def close(self) -> None:
        for sock in (self.server, *self.open):
            sock.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def bodies(sock: socket.socket, count: int) -> list[str]:
    """The texts of so many messages, by octet counting (RFC 6587)."""
    found = []
    with sock.makefile("rb") as stream:
        for _ in range(count):
            length = b""
            while (digit := stream.read(1)) != b" ":
                assert digit, "the connection ended"
                length += digit
            found.append(stream.read(int(length)).decode("utf-8-sig").rpartition("\ufeff")[2])
    return found


def message(number: int) -> Message:
    return Message(number, AUDIT_CHANNEL, "", 0.0, f"<{number}/>", 0)


class Watched:
    """A channel with a clock of its own."""

    def __init__(self, port: int) -> None:
        self.now = 0.0
        self.channel = AuditChannel(Syslog("127.0.0.1", port, "tcp"), lambda: self.now)

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.channel.settle()


def test_what_a_dead_repository_had_not_read_is_sent_again_first(listener: Listener) -> None:
    watched = Watched(listener.port)
    watched.channel.deliver(message(1))
    first = listener.accept()
    watched.after(GRACE_SECONDS + 1)  # read, as far as anybody can know
    watched.channel.deliver(message(2))
    watched.channel.deliver(message(3))
    watched.after(GRACE_SECONDS - 1)
    first.close()  # with 2 and 3 unread
    wait_until(lambda: not watched.channel._syslog.lives(), 5, "its end is seen")
    watched.after(1000)  # no time makes them certain now
    watched.channel.deliver(message(4))
    assert bodies(listener.accept(), 3) == ["<2/>", "<3/>", "<4/>"]
    watched.channel.close()


def test_while_it_is_away_nothing_is_forgotten(listener: Listener) -> None:
    watched = Watched(listener.port)
    watched.channel.deliver(message(1))
    listener.accept().close()
    listener.server.close()
    wait_until(lambda: not watched.channel._syslog.lives(), 5, "its end is seen")
    for _ in range(3):
        with pytest.raises(Transient):
            watched.channel.deliver(message(2))
    listener.server = socket.create_server(("127.0.0.1", listener.port))
    watched.channel.deliver(message(2))
    assert bodies(listener.accept(), 2) == ["<1/>", "<2/>"]
    watched.channel.close()


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    key = tmp_path / "edge.key"
    key.write_text("secret")
    os.chmod(key, 0o644)
    server = socket.create_server(("127.0.0.1", 0))
    channel = AuditChannel(
        open_syslog(
            Audit("127.0.0.1", port=server.getsockname()[1], certificate="edge.pem", client_key="edge.key"), tmp_path
        )
    )
    with pytest.raises(Rejected, match="chmod 600"):
        channel.deliver(message(1))
    server.close()


def test_an_outage_in_the_midst_of_many_loses_none(tmp_path: Path, running: ExitStack) -> None:
    """rsyslog over TLS is killed again and again while the courier sends: all is there, in order of first arrival."""
    repository = running.enter_context(Repository(tmp_path / "repository"))
    db = Store(tmp_path / "catalog.db")
    xml = '<AuditMessage number="{}"/>'

    def fill(conn: outbox.Transaction) -> None:
        for number in range(300):
            outbox.post(conn, AUDIT_CHANNEL, "", 1.75e9 + number, xml.format(number))

    db.write(fill)
    audit = Audit(
        "localhost",
        port=repository.port,
        **{key: str(repository.directory / name) for key, name in FILES.items()},
    )
    channel = AuditChannel(open_syslog(audit, tmp_path))
    courier = Courier(db, AUDIT_CHANNEL, channel, chance=lambda: 0.0)
    courier.start()
    for least in (30, 150):
        wait_until(lambda least=least: len(repository.lines()) >= least, 30, f"{least} have arrived")
        repository.kill()
        repository.start()
    wait_until(lambda: xml.format(299) in "".join(repository.lines()[-5:]), 60, "the last one has arrived")
    courier.stop()
    channel.close()
    db.close()
    came = [frame[-1] for frame in repository.frames()]
    assert list(dict.fromkeys(came)) == [xml.format(number) for number in range(300)]
    times = {frame[-1]: frame[1] for frame in repository.frames()}
    assert times[xml.format(0)] == "2025-06-15T15:06:40.000000Z"


FILES = {"ca": "ca.pem", "certificate": "edge.pem", "client_key": "edge.key"}
