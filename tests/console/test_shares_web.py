"""What outsiders may take of the console and of the centre: connections, bytes, time."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from anyio import to_thread
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from edge.central import bodies
from edge.central.receive import MAX_BYTES
from edge.console.server import Console
from edge.network import shares
from edge.network.shares import ProvenCallers
from edge.web import http, listener
from edge.web.accounts import UserRole
from edge.web.server import WebServer
from tests.support.peers import wait_until
from tests.support.web_site import Site, csrf


@pytest.fixture
def callers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 alone is this machine: its other addresses are strangers'."""
    for module in (listener, bodies):
        monkeypatch.setattr(module, "is_local_caller", lambda address: address == "127.0.0.1")


def connected(stack: ExitStack, port: int, address: str, sent: bytes = b"") -> socket.socket:
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0)))
    sock.sendall(sent)
    return sock


def answered(sock: socket.socket) -> bool:
    """Was it turned away?"""
    try:
        return b" 503 " in sock.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection keeps its place however slow it is, so that nobody comes in because another one's time is up."""
    for name in ("HTTP_REQUEST_SECONDS", "EXCHANGE_SECONDS", "BODY_PACE_SECONDS"):
        monkeypatch.setattr(http, name, 600.0)
    monkeypatch.setattr(bodies, "BODY_SECONDS", 600.0)


SLOW = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx"


@pytest.mark.usefixtures("local", "patient")
def test_slow_bodies_of_one_address_do_not_close_the_console(callers: ExitStack) -> None:
    console = Console("127.0.0.1", 0, dict, str, lambda: (True, ""))
    console.start()
    try:
        slow = [connected(callers, console.port, "127.0.0.2", SLOW) for _ in range(64)]
        wait_until(lambda: sum(map(answered, slow)) == 64 - shares.CONSOLE.each, 5, "the others are turned away")
        assert console.connections == shares.CONSOLE.each
        for address in ("127.0.0.1", "127.0.0.3"):
            assert ask(callers, console.port, address).startswith(b"HTTP/1.1 200"), address
    finally:
        console.stop()


@pytest.mark.usefixtures("local", "patient")
def test_many_addresses_do_not_close_the_console_to_anybody(callers: ExitStack) -> None:
    console = Console("127.0.0.1", 0, dict, str, lambda: (True, ""))
    console.start()
    console.known.remember("127.0.1.1", time.time())
    try:
        for number in range(2, 8):
            for _ in range(16):
                connected(callers, console.port, f"127.0.0.{number}", SLOW)
        wait_until(lambda: console.connections == 48, 5, "all that strangers get")
        assert ask(callers, console.port, "127.0.1.1").startswith(b"HTTP/1.1 200"), "somebody has signed in from there"
        assert ask(callers, console.port, "127.0.0.1").startswith(b"HTTP/1.1 200")
        assert ask(callers, console.port, "127.0.1.2").startswith(b"HTTP/1.1 200"), (
            "the largest_holder loses its oldest"
        )
    finally:
        console.stop()


def ask(stack: ExitStack, port: int, address: str) -> bytes:
    sock = connected(stack, port, address, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return b"".join(iter(lambda: sock.recv(4096), b""))


def test_a_body_that_comes_too_slowly_is_cut_off_and_one_that_comes_is_not(
    callers: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "EXCHANGE_SECONDS", 600.0)
    monkeypatch.setattr(http, "BODY_PACE_SECONDS", 0.3)
    served: list[http.BoundedHttp] = []
    watch = http.BoundedHttp._watch_pace
    monkeypatch.setattr(http.BoundedHttp, "_watch_pace", lambda self: served.append(self) or watch(self))

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        count = 0
        while (message := await receive())["type"] == "http.request":
            count += len(message["body"])
            if not message["more_body"]:
                break
        else:
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(count).encode()})

    server = WebServer(echo, "127.0.0.1", 0)
    server.start()
    try:
        slow = connected(callers, server.port, "127.0.0.1", SLOW)
        assert not slow.recv(100)
        served.clear()
        monkeypatch.setattr(http, "BODY_PACE_SECONDS", 600.0)  # the time is over when the test says so
        steady = connected(callers, server.port, "127.0.0.1", SLOW)
        for number in range(1, 10):
            wait_until(lambda number=number: len(served) == number, 5, "its time begins")  # type: ignore[misc]
            steady.sendall(b"x" * 11_111)
            if number < 9:
                wait_until(lambda: served[-1]._came >= 11_111, 5, "it has come")
                served[-1].loop.call_soon_threadsafe(served[-1]._check_pace)
        answer = b""
        while b"100000" not in answer:
            answer += (more := steady.recv(1000))
            assert more, answer
    finally:
        server.stop()


@pytest.mark.usefixtures("patient")
def test_a_connection_gives_its_place_back_however_it_ends(callers: ExitStack) -> None:
    console = Console("127.0.0.1", 0, dict, str, lambda: (True, ""))
    console.start()
    try:
        for number in range(200):
            sock = connected(callers, console.port, "127.0.0.1", SLOW[: number % 60])
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
            sock.close()
        wait_until(lambda: console.connections == 0, 10, "all are given back")
    finally:
        console.stop()


SIGNED = {"edge-site": "1", "edge-signature": "sha256=" + "0" * 64}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"edge-site": "1", "content-length": "10"}, 401),
        ({"edge-site": "1", "edge-signature": "sha256=" + "0" * 63, "content-length": "10"}, 401),
        (SIGNED, 411),
        ({**SIGNED, "content-length": "-1"}, 411),
        ({**SIGNED, "content-length": "\u0661"}, 411),
        ({**SIGNED, "content-length": str(MAX_BYTES + 1)}, 413),
        ({**SIGNED, "content-length": "9" * 5000}, 413),
    ],
)
def test_what_can_be_no_heartbeat_is_refused_before_it_is_read(headers: dict[str, str], status: int) -> None:
    with pytest.raises(bodies.BodyRefused) as refused:
        bodies.length_of(headers)
    assert refused.value.answer.status == status


@pytest.mark.usefixtures("local", "patient")
def test_unsigned_bodies_take_bounded_memory_and_sites_come_in_beside_them(callers: ExitStack) -> None:
    known, release, held = ProvenCallers(), threading.Event(), []
    known.remember("127.0.9.9", time.time())
    holding = bodies.Bodies(known)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            async with holding.receive_body(HttpRequest(scope, receive)) as body:
                held.append(len(body))
                await to_thread.run_sync(release.wait, 100)
            answer = Response()
        except bodies.BodyRefused as refused:
            answer = Response(status_code=refused.answer.status)
        await answer(scope, receive, send)

    server = WebServer(app, "127.0.0.1", 0)
    server._socket._places.share = shares.CENTRE
    server.start()
    try:
        length = 2 << 20
        head = f"POST /heartbeat HTTP/1.1\r\nHost: x\r\nEdge-Site: 1\r\nEdge-Signature: sha256={'0' * 64}\r\n"
        head += f"Content-Length: {length}\r\n\r\n"
        for number in range(200):
            connected(callers, server.port, f"127.0.0.{number // 10 + 2}", head.encode())
        most = shares.BODIES.all - shares.BODIES.reserved
        wait_until(lambda: holding._places.total == most, 5, "all that is for callers that nobody knows")
        site = connected(callers, server.port, "127.0.9.9", head.encode() + bytes(length))
        wait_until(lambda: held == [length], 5, "a site's body is taken")
        assert holding._places.total == most + length
        release.set()
        assert b" 200 " in site.recv(100)
    finally:
        release.set()
        callers.close()
        server.stop()
    assert holding._places.total == 0


@pytest.mark.usefixtures("patient")
def test_forms_of_unknown_callers_are_bounded_at_a_time(callers: ExitStack) -> None:
    site = Site()
    try:
        inside, port = site.signed_in(UserRole.OPERATOR), site.server.port
        token = csrf(inside, "/")
        form = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        slow = [connected(callers, port, "127.0.0.1", form + b"Content-Length: 9000\r\n\r\nx") for _ in range(4)]
        whole = form + b"Content-Length: 1\r\nConnection: close\r\n\r\nx"

        def status() -> int:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                sock.sendall(whole)
                return int(sock.recv(100).split()[1])

        wait_until(lambda: status() == 503, 5, "four are being sent")
        assert inside.post("/operate", data={"csrf": token}).status_code == 200, "who is signed in is not counted"
        for sock in slow:
            sock.close()
        wait_until(lambda: status() == 403, 5, "there is room again")
    finally:
        site.close()


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("", False)],
)
def test_this_machine_is_known_by_its_address(address: str, local: bool) -> None:
    assert shares.is_local_caller(address) is local


def test_an_idle_server_turns_seldom_and_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HTTP_TURN_SECONDS", 3600.0)
    turns: list[int] = []
    monkeypatch.setattr(http.Server, "on_tick", note_turn(turns))
    server = WebServer(Response("here"), "127.0.0.1", 0)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    stopping.join(60)
    assert not stopping.is_alive()
    assert turns == [0]


def note_turn(turns: list[int]) -> Any:
    async def on_tick(_server: http.Server, counter: int) -> bool:
        turns.append(counter)
        return False

    return on_tick
