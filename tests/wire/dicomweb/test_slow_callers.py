"""Bodies and answers that come or go too slowly end; a clock that the test moves says how slowly."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import pytest

from edge.scp.dicomweb.pace import PACE_BYTES, PACE_SECONDS, CallerPace
from edge.scp.dicomweb.protocol import NEXT_REQUEST_SECONDS, ConnectionEnded, HttpConnection

HEAD = b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\n"


@dataclass
class Clock:
    """Goes on by `step` seconds at each reading."""

    step: float = 0.0
    now: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@dataclass
class Pair:
    """A connection of the door, and the caller's end of it."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        here, self.caller = socket.socketpair()
        self.door = HttpConnection(here, bytearray(), "192.0.2.1", self.clock)

    def read(self) -> bytes:
        room = memoryview(bytearray(100))
        return bytes(room[: self.door.read_body(room)])

    def close(self) -> None:
        self.door.sock.close()
        self.caller.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair()
    yield found
    found.close()


def test_waiting_counts_and_nothing_else() -> None:
    pace = CallerPace()
    assert all(pace.is_kept(1, 0.0) for _ in range(1000))
    assert pace.is_kept(PACE_BYTES, PACE_SECONDS + 1)
    assert pace.is_kept(1, PACE_SECONDS)
    assert not pace.is_kept(1, 1.0)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_trickles_is_cut(pair: Pair, is_chunked: bool) -> None:
    count = 10_000
    how = b"Transfer-Encoding: chunked\r\n\r\n" if is_chunked else b"Content-Length: %d\r\n\r\n" % count
    pair.caller.sendall(HEAD + how)
    assert pair.door.next_request() is not None
    pair.caller.sendall(b"1\r\na\r\n" if is_chunked else b"a")
    assert pair.read() == b"a"
    pair.clock.step = PACE_SECONDS + 1
    pair.caller.sendall(b"1\r\na\r\n" if is_chunked else b"a")
    with pytest.raises(ConnectionEnded, match="too slowly"):
        pair.read()


@pytest.mark.parametrize("is_read", [True, False])
def test_behind_a_body_that_is_cut_comes_no_request(pair: Pair, is_read: bool) -> None:
    """What still came of it would be read as one, and its answer taken for another's by a proxy before us."""
    pair.caller.sendall(HEAD + b"Content-Length: 10000\r\n\r\na")
    assert pair.door.next_request() is not None
    assert pair.read() == b"a"
    pair.clock.step = PACE_SECONDS + 1
    pair.caller.sendall(b"GET /dicom-web/studies")
    if is_read:
        with pytest.raises(ConnectionEnded, match="too slowly"):
            pair.read()
    else:
        pair.door.drop_body()
    assert pair.door.ends
    pair.clock.step = 0.0
    pair.door.answer(HTTPStatus.UNAUTHORIZED, {}, b"")
    assert b"Connection: close\r\n" in pair.caller.recv(1000)


def test_a_body_that_the_gateway_is_slow_to_take_is_not(pair: Pair) -> None:
    pair.caller.sendall(HEAD + b"Content-Length: 2\r\n\r\n")
    assert pair.door.next_request() is not None
    for _ in range(2):
        pair.caller.sendall(b"a")
        assert pair.read() == b"a"
        pair.clock.now += 10 * PACE_SECONDS  # a flush takes that time


def test_a_head_that_trickles_is_not_waited_for(pair: Pair) -> None:
    pair.clock.step = NEXT_REQUEST_SECONDS / 2
    pair.caller.sendall(HEAD)
    with pytest.raises(ConnectionEnded, match="no request is whole"):
        pair.door.next_request()


@pytest.mark.parametrize("is_file", [False, True])
def test_an_answer_that_is_read_too_slowly_is_cut(pair: Pair, tmp_path: Path, is_file: bool) -> None:
    pair.caller.sendall(b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n")
    assert pair.door.next_request() is not None
    pair.door.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = os.urandom(40_000)  # more than the two ends hold, less than the pace asks for
    pair.door.answer(HTTPStatus.OK, {}, None, len(data))
    path = tmp_path / "object"
    path.write_bytes(data)
    pair.clock.step = PACE_SECONDS + 1
    with path.open("rb") as file, pytest.raises(ConnectionEnded, match="too slowly"):
        pair.door.send_file(file, 0, len(data)) if is_file else pair.door.send(data)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_file_comes_whole_through_a_small_window(pair: Pair, tmp_path: Path, is_chunked: bool) -> None:
    pair.caller.sendall(b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n")
    assert pair.door.next_request() is not None
    pair.door.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = os.urandom(300_000)
    (tmp_path / "object").write_bytes(b"before" + data + b"behind")
    came = bytearray()
    reader = threading.Thread(target=lambda: came.extend(b"".join(iter(lambda: pair.caller.recv(5000), b""))))
    reader.start()
    pair.door.answer(HTTPStatus.OK, {}, None, None if is_chunked else len(data))
    with (tmp_path / "object").open("rb") as file:
        pair.door.send_file(file, 6, len(data))
    pair.door.end_body()
    pair.door.sock.shutdown(socket.SHUT_WR)
    reader.join()
    assert data in bytes(came)
