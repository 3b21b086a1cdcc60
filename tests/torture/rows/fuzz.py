"""Messages with something wrong, into the decoder and over sockets."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge.dicom.acse import parse_request
from edge.dicom.pdu import Released
from edge.dicom.wire import Wire
from edge.errors import EdgeError
from tests.support.peers import wait_until
from tests.torture.besieged import MB, associated, attacked, connect, open_sockets
from tests.torture.messages import mutated, seeds
from tests.torture.row import Budget, Score


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

    def gettimeout(self) -> None: ...


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
        if slowest > budget.within(1) or grown > 50:
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


@dataclass(frozen=True)
class Sockets:
    name: str = "fuzz-sockets"
    what: str = "the same over sockets, before and within an association"
    survives: str = "no crash, nothing stuck, a good echo within 1 s throughout, 50 MB more at most"
    long: int = 100_000
    quick: int = 2_000

    def play(self, place: Path, budget: Budget) -> Score:
        score, sound = Score(), seeds()
        with attacked(place, budget) as (gateway, watch):
            for number in budget.rounds():
                self._one(gateway.port, sound, budget.chance(number))
                score.tried += 1
            try:
                wait_until(lambda: open_sockets(gateway) <= 2, 120, "every association has ended")
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


ROWS = (Decoder(), Sockets())
