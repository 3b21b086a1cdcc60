"""Those who come to the door without good intent: rubbish, half PDUs, silence, crowds. A good modality sees nothing."""

from __future__ import annotations

import random
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from edge.dicom.associate import Context, Request, parse_request, request_pdu
from edge.dicom.pdu import Released, Wire
from edge.errors import EdgeError
from tests.certificates import Authority
from tests.peers import free_port, wait_until
from tests.torture.custody import Custody, Made, Sender
from tests.torture.gateway import Gateway, archive_at
from tests.torture.messages import ASSOCIATE, mutated, p_data, seeds, store_command
from tests.torture.row import Budget, Score
from tests.torture.rows.storage import echo_seconds

MB = 1_000_000
#: What an attack may cost, at most.
ECHO_SECONDS, GROWTH_BYTES, CUT_SECONDS = 1.0, 50 * MB, 30.0


# -- the decoder ------------------------------------------------------------------------------------------------------


class Canned:
    """A socket that has received all it will ever receive, in pieces."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step, self._at = data, step, 0

    def recv_into(self, view: memoryview) -> int:
        piece = self._data[self._at : self._at + min(self._step, len(view))]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def setsockopt(self, *_: object) -> None: ...

    def settimeout(self, _: float) -> None: ...


def read_all(wire: Wire) -> None:
    """Read as the receiver does: a command, then its data set."""
    while True:
        context, command = wire.read_command()
        if command.has_data_set:
            wire.read_data_set(context, lambda views: None)


@dataclass(frozen=True)
class Decoder:
    name: str = "fuzz-decoder"
    what: str = "PDUs, command sets and A-ASSOCIATE-RQs with something wrong, into the decoder"
    survives: str = "every one is read or refused in words; no crash, no hang"
    long: int = 5_000_000
    quick: int = 100_000

    def play(self, place: Path, budget: Budget) -> Score:
        score, sound, chance = Score(), seeds(), budget.chance()
        slowest, before = 0.0, psutil.Process().memory_info().rss
        wire = Wire(Canned(b"", 1))  # type: ignore[arg-type]
        for number in budget.rounds():
            message = b"".join(mutated(chance.choice(sound), chance) for _ in range(chance.choice((1, 1, 2, 3))))
            began = time.perf_counter()
            fault = self._one(wire, message, chance.choice((1 << 20, 1 << 20, 7, 1000)))
            slowest = max(slowest, time.perf_counter() - began)
            score.tried += 1
            score.survived += not fault
            if fault and len(score.faults) < 20:
                score.faults.append(f"seed {budget.seed}, message {number}: {fault}: {message[:200].hex()}")
        grown = (psutil.Process().memory_info().rss - before) / MB
        score.figures = {"s for one, most": slowest, "MB more": grown}
        if slowest > 1 or grown > 50:
            score.tell([f"one took {slowest:.2f} s; {grown:.0f} MB more"])
        return score

    @staticmethod
    def _one(wire: Wire, message: bytes, step: int) -> str:
        """What went wrong in decoding; empty where it was read or refused in words."""
        try:
            if message[:1] == b"\1":
                parse_request(message)
            wire.sock, wire._at, wire._end, wire._pdu_end = Canned(message, step), 0, 0, 0  # type: ignore[assignment]
            read_all(wire)
        except (EdgeError, Released):
            return ""
        except Exception as error:  # noqa: BLE001  whatever else comes is what is looked for
            return f"{type(error).__name__}: {error}"
        return "it never ended"


# -- over sockets -----------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """A good modality that echoes all the while, and what the gateway costs."""

    gateway: Gateway
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)
    most: int = 0
    before: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._process = psutil.Process(self.gateway.pid)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.slowest = max(self.slowest, echo_seconds(self.gateway.port))
            except (EdgeError, OSError) as error:
                self.failures.append(f"a good modality's echo failed: {error}")
            self.most = max(self.most, self._process.memory_info().rss)
            self._over.wait(0.1)

    @contextmanager
    def looking(self) -> Iterator[Watch]:
        thread = threading.Thread(target=self._run)
        for _ in range(30):
            echo_seconds(self.gateway.port)  # what is loaded at first use is not growth
        self.before = self.most = self._process.memory_info().rss
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(60)

    def wrong(self) -> list[str]:
        if self.gateway.has_ended():
            return ["the gateway has died"]
        wrong = self.failures[:2]
        wrong += [f"an echo took {self.slowest:.2f} s"] if self.slowest > ECHO_SECONDS else []
        grown = self.most - self.before
        wrong += [f"{grown / MB:.0f} MB more"] if grown > GROWTH_BYTES else []
        return wrong

    def figures(self) -> dict[str, float | str]:
        return {"s of a good echo, most": self.slowest, "MB more": (self.most - self.before) / MB}


class Besieged(Gateway):
    """A gateway with a TLS port, too, and nobody at the archive's. `scanner`: what one of the site's has for TLS."""

    def __init__(self, directory: Path) -> None:
        authority, self.tls_port = Authority(directory / "authority"), free_port()
        own, scanner = authority.issue("edge.test", "127.0.0.1"), authority.issue("ct1.test")
        self.scanner = ssl.create_default_context(cafile=authority.ca)
        self.scanner.load_cert_chain(scanner.certificate, scanner.key)
        files = f'certificate = "{own.certificate}"\nkey = "{own.key}"\nca = "{authority.ca}"\n'
        super().__init__(directory, archive_at(free_port(), more=f"[tls]\nport = {self.tls_port}\n{files}"))


@contextmanager
def attacked(place: Path) -> Iterator[tuple[Besieged, Watch]]:
    """A gateway with a good modality."""
    with Besieged(place / "edge") as gateway:
        gateway.start()
        Sender(gateway.port, Made(place / "made"), Custody(), random.Random(1)).send(20)
        with Watch(gateway).looking() as watch:
            yield gateway, watch
        # Everything that the attack opened is gone when it is over.
        gateway.kill()


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def associated(port: int) -> socket.socket:
    sock = connect(port)
    sock.sendall(ASSOCIATE)
    head = _exactly(sock, 6)
    _exactly(sock, int.from_bytes(head[2:], "big"))
    return sock


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data


@dataclass(frozen=True)
class Sockets:
    name: str = "fuzz-sockets"
    what: str = "the same over sockets, before and within an association"
    survives: str = "no crash, nothing stuck, a good echo within 1 s throughout, 50 MB more at most"
    long: int = 100_000
    quick: int = 2_000

    def play(self, place: Path, budget: Budget) -> Score:
        score, sound = Score(), seeds()
        with attacked(place) as (gateway, watch):
            for number in budget.rounds():
                self._one(gateway.port, sound, budget.chance(number))
                score.tried += 1
            try:
                wait_until(lambda: open_sockets(gateway) <= 2, 40, "every association has ended")
                stuck = []
            except AssertionError as error:
                stuck = [str(error)]
            wrong = watch.wrong() + stuck
        score.survived = score.tried
        if wrong:
            score.survived = 0
            score.faults = wrong
        score.figures = watch.figures()
        return score

    @staticmethod
    def _one(port: int, sound: list[bytes], chance: random.Random) -> None:
        inside = chance.random() < 0.75
        try:
            with associated(port) if inside else connect(port) as sock:
                for _ in range(chance.choice((1, 2, 4))):
                    sock.sendall(mutated(chance.choice(sound[1:] if inside else sound[:1]), chance))
                if chance.random() < 0.2:
                    sock.settimeout(0.02)
                    sock.recv(1000)
        except OSError:
            pass  # it has had enough of us


def open_sockets(gateway: Gateway) -> int:
    """Connections to its DICOM port that the gateway holds open."""
    held = psutil.Process(gateway.pid).net_connections("tcp")
    return sum(1 for each in held if each.status != psutil.CONN_LISTEN and each.laddr.port == gateway.port)


@dataclass(frozen=True)
class Siege:
    """Many connections of one kind, held as long as the gateway lets them; each must be cut."""

    name: str
    what: str
    count: int
    lay: Callable[[Besieged, int], socket.socket | None]
    trickle: bytes = b""  # sent a byte a second
    cut_seconds: float = CUT_SECONDS
    survives: str = "each is cut within 30 s; a good echo within 1 s throughout, 50 MB more at most"
    long: int = 0
    quick: int = 0

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with attacked(place) as (gateway, watch):
            opened = {}
            began = time.monotonic()
            for number in range(self.count):
                sock = self.lay(gateway, number)
                if sock is not None:
                    sock.setblocking(False)
                    opened[sock] = time.monotonic()
            lasted = self._outlast(opened)
            left = [sock for sock in opened if sock not in lasted]
            for sock in opened:
                sock.close()
            slowest = max([*lasted.values(), 0.0])
            wrong = watch.wrong()
        score.tried = self.count
        score.survived = self.count - len(left) if not wrong else 0
        score.faults = wrong + ([f"{len(left)} were not cut within {self.cut_seconds + 5:g} s"] if left else [])
        score.figures = {
            "s until cut, most": slowest,
            "s to lay": time.monotonic() - began - slowest,
            **watch.figures(),
        }
        return score

    def _outlast(self, opened: dict[socket.socket, float]) -> dict[socket.socket, float]:
        """How long each was let: until the gateway closed it, or would not take another byte."""
        lasted: dict[socket.socket, float] = {}
        trickled = 0
        with selectors.DefaultSelector() as selector:
            for sock in opened:
                selector.register(sock, selectors.EVENT_READ)
            end, tick = time.monotonic() + self.cut_seconds + 5, time.monotonic()
            while len(lasted) < len(opened) and time.monotonic() < end:
                for key, _ in selector.select(0.2):
                    if _is_over(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
                        lasted[key.fileobj] = time.monotonic() - opened[key.fileobj]  # type: ignore[index]
                if self.trickle and time.monotonic() - tick > 1:
                    tick, trickled = time.monotonic(), trickled + 1
                    for sock in opened.keys() - lasted.keys():
                        _whisper(sock, self.trickle[trickled % len(self.trickle)])
        return lasted


def _is_over(sock: socket.socket) -> bool:
    try:
        return not sock.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _whisper(sock: socket.socket, byte: int) -> None:
    try:
        sock.send(bytes([byte]))
    except OSError:
        pass  # it has been cut: its reader will see


def silent(gateway: Besieged, number: int) -> socket.socket:
    return connect(gateway.port)


def silent_at_tls(gateway: Besieged, number: int) -> socket.socket:
    """Nothing; half a ClientHello; or the whole handshake, and then nothing."""
    sock = connect(gateway.tls_port)
    if number % 3 == 1:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    if number % 3 < 2:
        return sock
    try:
        secured = gateway.scanner.wrap_socket(sock, server_hostname="127.0.0.1")
    except OSError:
        return sock  # there are too many of us
    return socket.socket(fileno=secured.detach())


def half_a_request(gateway: Besieged, number: int) -> socket.socket:
    sock = connect(gateway.port)
    sock.sendall(ASSOCIATE[: 1 + number % (len(ASSOCIATE) - 1)])
    return sock


def half_a_pdu(gateway: Besieged, number: int) -> socket.socket:
    """Within an association; every other one in the midst of a C-STORE's data set."""
    sock = associated(gateway.port)
    if number % 2:
        sock.sendall(p_data(store_command(), 3))
    sock.sendall(p_data(bytes(1000), 0)[: 3 + number % 900])
    return sock


def huge_request(gateway: Besieged, number: int) -> socket.socket:
    sock = connect(gateway.port)
    sock.sendall(struct.pack(">BxL", 1, 0xFFFFFFFF - number) + bytes(1000))
    return sock


def huge_pdu(gateway: Besieged, number: int) -> socket.socket:
    sock = associated(gateway.port)
    sock.sendall(struct.pack(">BxL", 4, 0xFFFFFFFF - number) + bytes(1000))
    return sock


def endless_command(gateway: Besieged, number: int) -> socket.socket | None:
    """Fragments of a command set that never comes to its last."""
    sock = associated(gateway.port)
    try:
        for _ in range(200):
            sock.sendall(p_data(bytes(4000), 1))
    except OSError:
        pass  # cut already
    return sock


def gigantic_command(gateway: Besieged, number: int) -> socket.socket | None:
    """One element of a command set that says it has 4 GB."""
    sock = associated(gateway.port)
    sock.sendall(p_data(struct.pack("<HHL", 0, 0x1000, 0xFFFFFFFF) + bytes(100), 3))
    return sock


def contexts_by_the_hundred(gateway: Besieged, number: int) -> socket.socket | None:
    """More contexts than there are IDs, the same ones again, none at all, some with hundreds of syntaxes."""
    sock = connect(gateway.port)
    syntaxes = tuple(f"1.2.{n}" for n in range(400 if number % 2 else 1))
    contexts = tuple(Context(1 + 2 * (n % 128), f"1.2.840.{n}", syntaxes) for n in range(0 if number % 3 == 0 else 300))
    try:
        sock.sendall(request_pdu(Request("EVIL", "EDGE", contexts[: 4 if number % 2 else 300], 16_384)))
        sock.settimeout(2)
        sock.recv(65_536)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # cut
    return sock


@dataclass(frozen=True)
class Idle:
    name: str = "idle"
    what: str = "100 associations that do nothing"
    survives: str = "at most 5 % of a core for all of them"
    long: int = 0
    quick: int = 0
    count: int = 100

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with Gateway(place / "edge", archive_at(free_port())) as gateway, ExitStack() as stack:
            gateway.start()
            for _ in range(self.count):
                stack.enter_context(associated(gateway.port))
            process, seconds = psutil.Process(gateway.pid), budget.few(60, 10)
            time.sleep(1)
            before = process.cpu_times()
            time.sleep(seconds)
            after = process.cpu_times()
            share = 100 * (after.user + after.system - before.user - before.system) / seconds
        score.tried, score.survived = self.count, self.count if share <= 5 else 0
        score.figures = {"% of a core": share}
        score.faults = [f"{share:.1f} % of a core"] if share > 5 else []
        return score


@dataclass(frozen=True)
class Procession:
    name: str = "procession"
    what: str = "associations one after the other: released, aborted, reset, rejected, with and without an object"
    survives: str = "memory, threads and descriptors are what they were"
    long: int = 20_000
    quick: int = 500

    def play(self, place: Path, budget: Budget) -> Score:
        score, made, custody = Score(), Made(place / "made", (2_000,)), Custody()
        with Gateway(place / "edge", archive_at(free_port())) as gateway:
            gateway.start()
            process = psutil.Process(gateway.pid)
            self._some(gateway, 300, budget.chance(), made, custody)
            self._quiet(gateway)
            before = (process.memory_info().rss, process.num_threads(), process.num_fds())
            for number in budget.rounds():
                self._one(gateway, budget.chance(number), made, custody)
                score.tried += 1
            self._quiet(gateway)
            after = (process.memory_info().rss, process.num_threads(), process.num_fds())
        grown = (after[0] - before[0]) / MB
        score.figures = {
            "MB more": grown,
            "threads more": after[1] - before[1],
            "descriptors more": after[2] - before[2],
        }
        score.faults = [f"{grown:.1f} MB more"] if grown > max(8, score.tried / 1000) else []
        score.faults += ["threads or descriptors leak"] if after[1] > before[1] + 4 or after[2] > before[2] + 8 else []
        score.survived = 0 if score.faults else score.tried
        return score

    def _some(self, gateway: Gateway, count: int, chance: random.Random, made: Made, custody: Custody) -> None:
        for _ in range(count):
            self._one(gateway, chance, made, custody)

    @staticmethod
    def _quiet(gateway: Gateway) -> None:
        wait_until(lambda: open_sockets(gateway) == 0, 20, "every association has ended")
        time.sleep(1)

    @staticmethod
    def _one(gateway: Gateway, chance: random.Random, made: Made, custody: Custody) -> None:
        how = chance.randrange(5)
        if how == 0:
            Sender(gateway.port, made, custody, chance).send(1)
            return
        with connect(gateway.port) as sock:
            if how == 4:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return
            sock.sendall(ASSOCIATE)
            head = _exactly(sock, 6)
            _exactly(sock, int.from_bytes(head[2:], "big"))
            if how == 1:
                sock.sendall(struct.pack(">BxLL", 5, 4, 0))
                sock.recv(10)
            elif how == 2:
                sock.sendall(struct.pack(">BxLxxBB", 7, 4, 0, 0))
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ROWS = (
    Decoder(),
    Sockets(),
    Siege("silent", "1,000 connections that say nothing", 1000, silent),
    Siege(
        "silent-tls",
        "1,000 connections to the TLS port: nothing, half a ClientHello, or a handshake and then nothing",
        1000,
        silent_at_tls,
    ),
    Siege(
        "half-pdus",
        "100 half P-DATA PDUs within associations, half of them within an object",
        100,
        half_a_pdu,
        cut_seconds=32,
    ),
    Siege("half-requests", "100 half A-ASSOCIATE-RQs", 100, half_a_request),
    Siege("trickle", "100 clients that send a byte a second of an A-ASSOCIATE-RQ", 100, half_a_request, trickle=b"\0"),
    Siege(
        "trickle-inside",
        "100 clients that send a byte a second of a PDU within an association",
        100,
        half_a_pdu,
        trickle=b"\0",
        cut_seconds=32,
    ),
    Siege("huge-requests", "100 A-ASSOCIATE-RQs of 4 GB", 100, huge_request),
    Siege("huge-pdus", "100 P-DATA PDUs of 4 GB", 100, huge_pdu),
    Siege("endless-commands", "50 commands that never end", 50, endless_command),
    Siege("gigantic-commands", "100 command elements of 4 GB", 100, gigantic_command),
    Siege("contexts", "100 requests with hundreds of contexts and syntaxes, or none", 100, contexts_by_the_hundred),
    Idle(),
    Procession(),
)
