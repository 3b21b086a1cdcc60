"""The console, over real sockets, with clients that misbehave."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from edge.console.server import Console
from edge.monitor.exposition import escape
from edge.monitor.live import Live
from edge.monitor.metrics import exposition
from edge.monitor.snapshot_model import Alert, DestinationStatus, Instances, Queue, Snapshot, Storage
from edge.network import shares
from edge.web import http as web
from tests.support.peers import wait_until

NASTY = 'a"b\\c\nd'
SNAPSHOT = Snapshot(
    at=1_800_000_000.0,
    site_id="0067",
    site_name="Test Clinic",
    version="0.1.0",
    live=Live("running", uptime_seconds=12.5),
    since=1_799_999_990.0,
    instances=Instances(stored=600, stored_bytes=314_572_800, evicted=7, conflicts=1, lost=2, quarantined=3),
    queue=Queue(pending=4, active=1, deferred=2, held=3, bytes=5_000, oldest_seconds=90.0),
    destinations=(
        DestinationStatus(
            "archive", pending=5, deferred=2, held=1, sent=590, confirmed=580, last_success=1_799_999_999.5
        ),
        DestinationStatus(NASTY, state="down", drain_seconds=None),
    ),
    storage=Storage(0.31, 74_000_000_000),
    alerts=(
        Alert("work-held", "archive", "major", 0.0, "..."),
        Alert("work-held", "other", "major", 0.0, "..."),
        Alert("conflict", "instances", "minor", 0.0, "..."),
    ),
)

#: As many connections as one caller of this machine gets.
LOCAL = shares.CONSOLE.all - shares.CONSOLE.reserved


class Gateway:
    """What the console is told."""

    ready: tuple[bool, str] = (True, "")
    broken = False

    def status(self) -> dict[str, Any]:
        if self.broken:
            raise ValueError("a secret")
        return {"state": "running", "site": {"name": "Klinik Süd"}}


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def console(gateway: Gateway) -> Iterator[Console]:
    made = Console("127.0.0.1", 0, gateway.status, lambda: exposition(SNAPSHOT), lambda: gateway.ready)
    made.start()
    yield made
    made.stop()


def ask(console: Console, path: str, method: str = "GET", body: bytes | None = None) -> http.client.HTTPResponse:
    client = http.client.HTTPConnection("127.0.0.1", console.port, timeout=60)
    client.request(method, path, body=body)
    answer = client.getresponse()
    answer.text = answer.read().decode()  # type: ignore[attr-defined]
    client.close()
    return answer


def raw(console: Console, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", console.port), timeout=60) as sock:
        sock.sendall(sent)
        return b"".join(iter(lambda: sock.recv(65_536), b""))


def test_alive_and_ready(console: Console, gateway: Gateway) -> None:
    assert (ask(console, "/healthz").status, ask(console, "/readyz").status) == (200, 200)
    gateway.ready = (False, "the disk is full")
    answer = ask(console, "/readyz")
    assert (answer.status, answer.text) == (503, "the disk is full\n")  # type: ignore[attr-defined]
    assert ask(console, "/healthz").status == 200


def test_the_status_is_json(console: Console) -> None:
    answer = ask(console, "/api/status?pretty=1")
    assert answer.getheader("Content-Type") == "application/json"
    assert json.loads(answer.text)["site"]["name"] == "Klinik Süd"  # type: ignore[attr-defined]


def test_head_has_the_headers_and_no_body(console: Console) -> None:
    whole, head = ask(console, "/api/status"), ask(console, "/api/status", "HEAD")
    assert head.getheader("Content-Length") == whole.getheader("Content-Length")
    assert raw(console, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/../etc/passwd", 404), ("POST", "/api/status", 405), ("DELETE", "/nowhere", 404)],
)
def test_what_there_is_not(console: Console, method: str, path: str, status: int) -> None:
    answer = ask(console, path, method, body=b"x" * 100_000 if method == "POST" else None)
    assert answer.status == status
    if status == 405:
        assert answer.getheader("Allow") == "GET, HEAD"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),  # TLS
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000, b"431"),
    ],
)
def test_bad_requests_are_answered_as_such(console: Console, sent: bytes, status: bytes) -> None:
    assert raw(console, sent).split(b" ")[1] == status


def test_a_failing_page_says_so_without_its_reason(console: Console, gateway: Gateway) -> None:
    gateway.broken = True
    answer = ask(console, "/api/status")
    assert answer.status == 500
    assert "secret" not in answer.text  # type: ignore[attr-defined]
    assert ask(console, "/healthz").status == 200


def test_a_client_that_drips_is_cut_off_at_the_deadline(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HTTP_REQUEST_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", console.port), timeout=60) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        assert b" 408 " in sock.recv(4096)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[web.BoundedHttp]:
    """The connections that were made, in order; the time of none is over before the test says so."""
    served: list[web.BoundedHttp] = []
    made = web.BoundedHttp.connection_made

    def noted(protocol: web.BoundedHttp, transport: asyncio.Transport) -> None:
        served.append(protocol)
        made(protocol, transport)

    monkeypatch.setattr(web.BoundedHttp, "connection_made", noted)
    for name in ("HTTP_REQUEST_SECONDS", "EXCHANGE_SECONDS"):
        monkeypatch.setattr(web, name, 600.0)
    return served


def time_is_over(protocol: web.BoundedHttp) -> None:
    assert protocol._deadline is not None, "its time is bounded"
    protocol.loop.call_soon_threadsafe(protocol._too_slow)


def test_silent_clients_take_all_places_for_a_moment_only(console: Console, served: list[web.BoundedHttp]) -> None:
    silent = [socket.create_connection(("127.0.0.1", console.port), timeout=60) for _ in range(LOCAL)]
    try:
        wait_until(lambda: len(served) == LOCAL, 5, "all have a place")
        assert raw(console, b"").split(b" ")[1] == b"503"  # turned away at once
        for protocol in served:
            time_is_over(protocol)
        for sock in silent:
            assert b" 408 " in sock.recv(4096)
            assert sock.recv(4096) == b""
        assert ask(console, "/healthz").status == 200
    finally:
        for sock in silent:
            sock.close()


def test_a_client_that_does_not_take_its_answer_is_cut_off(served: list[web.BoundedHttp]) -> None:
    made = Console("127.0.0.1", 0, dict, lambda: "x" * 20_000_000, lambda: (True, ""))
    made.start()
    try:
        with socket.create_connection(("127.0.0.1", made.port), timeout=60) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
            time_is_over(served[0])
            wait_until(lambda: not made.connections, 5, "it is cut off")
        assert ask(made, "/healthz").status == 200
    finally:
        made.stop()


def test_the_port_is_free_after_stop() -> None:
    made = Console("127.0.0.1", 0, dict, str, lambda: (True, ""))
    port = made.port
    made.start()
    made.stop()
    again = Console("127.0.0.1", port, dict, str, lambda: (True, ""))
    again.stop()


def test_a_taken_address_is_an_error_at_once() -> None:
    made = Console("127.0.0.1", 0, dict, str, lambda: (True, ""))
    with pytest.raises(OSError, match="in use"):
        Console("127.0.0.1", made.port, dict, str, lambda: (True, ""))
    made.stop()


# The format of /metrics, read by a parser that is not ours in spirit: strict, after the documented grammar.

_SAMPLE = re.compile(r'([a-z_:][a-z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*\})? (-?[0-9.e+-]+)')


def parsed(text: str) -> dict[str, float]:
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    samples: dict[str, float] = {}
    helped: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split(" ")[2])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name in helped
            assert name not in kinds, "each metric is announced once"
            kinds[name] = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] in kinds
            assert (kinds[match[1]] == "counter") == match[1].endswith("_total")
            assert match[1] + (match[2] or "") not in samples
            samples[match[1] + (match[2] or "")] = float(match[3])
    return samples


def test_the_metrics_are_well_formed_and_true(console: Console) -> None:
    answer = ask(console, "/metrics")
    assert str(answer.getheader("Content-Type")).startswith("text/plain; version=0.0.4")
    samples = parsed(answer.text)  # type: ignore[attr-defined]
    assert samples["edge_received_instances_total"] == 610
    assert samples['edge_state{state="running"}'] == 1
    assert samples['edge_state{state="down"}'] == 0
    assert samples['edge_destination_deliveries{destination="archive",state="pending"}'] == 5
    assert samples['edge_destination_confirmed_instances{destination="archive"}'] == 580
    assert samples['edge_destination_last_success_timestamp_seconds{destination="archive"}'] == 1_799_999_999.5
    assert samples['edge_alerts{kind="work-held",severity="major"}'] == 2
    assert samples["edge_storage_free_bytes"] == 74_000_000_000


def test_a_strange_name_is_escaped_and_the_unknown_is_absent() -> None:
    samples = parsed(exposition(SNAPSHOT))
    name = escape(NASTY)
    assert name == 'a\\"b\\\\c\\nd'
    assert samples[f'edge_destination_up{{destination="{name}"}}'] == 0
    assert f'edge_destination_drain_seconds{{destination="{name}"}}' not in samples
    assert "edge_storage_full_in_seconds" not in samples
