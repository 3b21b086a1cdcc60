"""Hostile HTTP at the web door: requests that are cut or noise, and callers that read or send almost nothing."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge.dicom.part10 import plain_head
from tests.support.peers import free_port
from tests.torture.besieged import GROWTH_BYTES, MB, connect
from tests.torture.custody import Custody, Made
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import HURRIED_SECONDS, Budget, Score
from tests.torture.rows.web import KIND, TOKEN, WebSender, study_of, web_config

AUTHORIZED = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"
LOOK = f"GET /dicom-web/studies?limit=1 HTTP/1.1\r\n{AUTHORIZED}\r\n".encode()
BOUNDARY = "b0undary"
#: Good looks that are answered at least while half of those who stand still are not cut off yet.
FEWEST_LOOKS = 3
STORE = (
    f"POST /dicom-web/studies HTTP/1.1\r\n{AUTHORIZED}"
    f'Content-Type: multipart/related; type="application/dicom"; boundary={BOUNDARY}\r\n'
).encode()


@dataclass
class GoodViewer:
    """Looks for a study all the while, from another address than the attackers."""

    gateway: Gateway
    port: int
    slowest: float = 0.0
    looks: int = 0
    failures: list[str] = field(default_factory=list)
    before: int = 0
    most: int = 0

    def look(self) -> None:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/dicom-web/studies?limit=1", headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                self.failures.append(f"a good look was answered {answer.status}")
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(f"a good look failed: {type(error).__name__}")
        finally:
            connection.close()
        self.looks, self.slowest = self.looks + 1, max(self.slowest, time.monotonic() - began)

    @contextmanager
    def looking(self) -> Iterator[GoodViewer]:
        over = threading.Event()

        def run() -> None:
            while not over.wait(0.1):
                self.look()
                self.most = max(self.most, self.gateway.memory())

        for _ in range(20):
            self.look()  # what is loaded at first use is not growth
        self.slowest, self.before = 0.0, self.gateway.memory()
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join(120)

    def wrong(self) -> list[str]:
        if self.gateway.has_ended():
            return ["the gateway has died"]
        grown = self.most - self.before
        return self.failures[:2] + ([f"{grown / MB:.0f} MB more"] if grown > GROWTH_BYTES else [])

    def figures(self) -> dict[str, float | str]:
        grown = max(0, self.most - self.before)
        return {"good looks": self.looks, "s of a good look, most": self.slowest, "MB more": grown / MB}


@contextmanager
def besieged(place: Path) -> Iterator[tuple[Gateway, int, Made]]:
    """A gateway that has a study, its web door's port, and what the study is made of."""
    port = free_port()
    made = Made(place / "made", (40_000,))
    with Gateway(place / "edge", archive_at(free_port()) + web_config(place, port)) as gateway:
        gateway.start()
        WebSender(port, made, Custody(), random.Random(1)).send(60)
        yield gateway, port, made
        gateway.kill()


# -- requests that are none -------------------------------------------------------------------------------------------


def chunked(chance: random.Random, body: bytes) -> Iterator[bytes]:
    while body:
        count = chance.choice((1, 7, 300, 5000, 60_000))
        piece, body = body[:count], body[count:]
        yield b"%x\r\n%b\r\n" % (len(piece), piece)


def cut(chance: random.Random, body: bytes) -> bytes:
    """It ends before the closing delimiter does."""
    end = chance.randrange(len(body) - 2)
    if chance.random() < 0.5:
        return STORE + b"Content-Length: %d\r\n\r\n" % len(body) + body[:end]
    return STORE + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunked(chance, body[:end]))


def short(chance: random.Random, body: bytes) -> bytes:
    """HTTP says that it is whole, and its last delimiter is missing."""
    end = chance.randrange(len(body) - 2)
    return STORE + b"Content-Length: %d\r\n\r\n" % end + body[:end]


def bad_chunks(chance: random.Random, body: bytes) -> bytes:
    said = bytearray(b"".join(chunked(chance, body[:9000])) + b"0\r\n\r\n")
    said[: chance.randrange(1, 6)] = chance.choice((b"-", b"zz\r\n", b"ffffffffffffffff1\r\n", b"\r\n\r\n", b" "))
    return STORE + b"Transfer-Encoding: chunked\r\n\r\n" + bytes(said)


def smuggled(chance: random.Random, body: bytes) -> bytes:
    """Two lengths, and a look behind the one that another server would believe."""
    lengths = [b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 40\r\n"]
    return STORE + b"".join(chance.sample(lengths, 2)) + b"\r\n0\r\n\r\n" + LOOK


def noise(chance: random.Random, body: bytes) -> bytes:
    return chance.choice((b"", b"POST ", STORE)) + chance.randbytes(chance.randrange(1, 40_000))


#: None of them is a request, or a whole one: none may be answered with success.
KINDS: tuple[Callable[[random.Random, bytes], bytes], ...] = (cut, short, bad_chunks, smuggled, noise)


def statuses(port: int, said: bytes) -> list[int]:
    came = b""
    with connect(port) as sock, suppress(OSError):
        sock.settimeout(60)
        with suppress(OSError):  # it need not read all
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
        while piece := sock.recv(65_536):
            came += piece
    return [int(each[:3]) for each in came.split(b"HTTP/1.1 ")[1:] if each[:3].isdigit()]


@dataclass(frozen=True)
class HostileHttp:
    """See the module's docstring."""

    name: str = "web-hostile"
    what: str = "HTTP that is cut, contradicts itself, or is noise, at the web door"
    survives: str = "none is a success; good requests are answered throughout; 50 MB more at most"
    long: int = 10_000
    quick: int = 300

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with besieged(place) as (gateway, port, _):
            with GoodViewer(gateway, port).looking() as viewer:
                self._attack(port, Made(place / "evil", (4000, 300_000)), budget, score)
            left = viewer.wrong()
        score.survived, score.faults = (0 if left else score.survived), score.faults + left
        score.figures = viewer.figures()
        return score

    @staticmethod
    def _attack(port: int, made: Made, budget: Budget, score: Score) -> None:
        for number in budget.rounds(score):
            chance = budget.chance(number)
            kind = KINDS[number % len(KINDS)]
            body = _body_of([made.one(chance) for _ in range(3)])
            found = [each for each in statuses(port, kind(chance, body)) if each < 400]
            wrong = [f"{kind.__name__}: answered {found}"] if found else []
            score.tell(wrong, f"round {number}, seed {budget.seed}")


def _body_of(objects: list[tuple[str, bytes]]) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + plain_head(KIND, uid) + data + b"\r\n" for uid, data in objects) + f"--{BOUNDARY}--".encode()


# -- callers that stand still -----------------------------------------------------------------------------------------


def half_a_head(port: int, study: str) -> socket.socket:
    sock = connect(port)
    sock.sendall(LOOK[:-6])
    return sock


def second_head(port: int, study: str) -> socket.socket:
    """A good request, and then half of another one."""
    sock = connect(port)
    sock.sendall(LOOK + LOOK[:-6])
    return sock


def slow_body(port: int, study: str) -> socket.socket:
    sock = connect(port)
    sock.sendall(STORE + b"Content-Length: 100000000\r\n\r\n--" + BOUNDARY.encode() + b"\r\n")
    return sock


def slow_reader(port: int, study: str) -> socket.socket:
    """It asks for more than two sockets hold, many times, and reads a byte a second."""
    sock = connect(port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(f"GET /dicom-web/studies/{study} HTTP/1.1\r\n{AUTHORIZED}\r\n".encode() * 4)
    return sock


@dataclass(frozen=True)
class SlowCallers:
    """Callers that stand nearly still, held as long as the gateway lets them."""

    name: str = "web-slow"
    what: str = "200 callers of the web door that read or send a byte a second: heads, bodies, answers"
    survives: str = "good requests are answered meanwhile, and after; 50 MB more at most; in a long run each is cut"
    long: int = 0
    quick: int = 0
    count: int = 200

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        lay = (half_a_head, second_head, slow_body, slow_reader)
        with besieged(place) as (gateway, port, made):
            study = study_of(made)
            with GoodViewer(gateway, port).looking() as viewer:
                wanted = viewer.looks + FEWEST_LOOKS
                opened = [lay[number % len(lay)](port, study) for number in range(self.count)]
                left, looks = _outlast(opened, viewer, wanted, 8 if budget.quick else 300)
            wrong = viewer.wrong()
            if looks < wanted:
                wrong.append(f"{wanted - looks} good looks too few were answered while half of the callers stood")
            for sock in opened:
                sock.close()
        if left and not budget.quick:
            wrong.append(f"{left} were not cut within 300 s")
        score.tried, score.survived, score.faults = self.count, 0 if wrong else self.count, wrong
        score.figures = {"still open at the end": left, **viewer.figures()}
        return score


def _outlast(opened: list[socket.socket], viewer: GoodViewer, wanted: int, seconds: float) -> tuple[int, int]:
    """Send and read a byte a second; how many are open in the end, and the number of looks while half were.

    It goes on for a while where the machine is slow, until the looks that are wanted have been answered.
    """
    left, looks, began = list(opened), 0, time.monotonic()
    for sock in left:
        sock.setblocking(False)
    while left and time.monotonic() < began + (seconds if looks >= wanted else max(seconds, HURRIED_SECONDS)):
        time.sleep(1.0)
        answered = viewer.looks
        left = [sock for sock in left if _goes_on(sock)]
        looks = answered if 2 * len(left) >= len(opened) else looks
    return len(left), looks


def _goes_on(sock: socket.socket) -> bool:
    try:
        sock.send(b"x")
        return bool(sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


ROWS = (HostileHttp(), SlowCallers())
