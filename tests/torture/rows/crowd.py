"""Many associations that mean no harm: at the same time, and one after the other."""

from __future__ import annotations

import random
import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.peers import free_port, wait_until
from tests.torture.besieged import MB, associated, connect, exactly, open_sockets
from tests.torture.custody import Custody, Made, Sender
from tests.torture.gateway import Gateway, archive_at
from tests.torture.messages import ASSOCIATE
from tests.torture.row import Budget, Score


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
            seconds = budget.few(60, 10)
            time.sleep(1)
            before = _cpu_seconds(gateway)
            time.sleep(seconds)
            share = 100 * (_cpu_seconds(gateway) - before) / seconds
        most = budget.few(5, 25)  # in a hurry, on a machine that others use
        score.tried, score.survived = self.count, self.count if share <= most else 0
        score.figures = {"% of a core": share}
        score.faults = [f"{share:.1f} % of a core"] if share > most else []
        return score


def _cpu_seconds(gateway: Gateway) -> float:
    times = [each.cpu_times() for each in gateway.processes()]
    return sum(each.user + each.system for each in times)


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
            self._some(gateway, 300, budget.chance(), made, custody)
            self._quiet(gateway)
            before = self._held(gateway)
            for number in budget.rounds():
                self._one(gateway, budget.chance(number), made, custody)
                score.tried += 1
            self._quiet(gateway)
            after = self._held(gateway)
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
    def _held(gateway: Gateway) -> tuple[int, int, int]:
        """Bytes of memory, threads and descriptors of all its processes."""
        counts = [(each.num_threads(), each.num_fds()) for each in gateway.processes()]
        return gateway.memory(), sum(threads for threads, _ in counts), sum(fds for _, fds in counts)

    @staticmethod
    def _quiet(gateway: Gateway) -> None:
        wait_until(lambda: open_sockets(gateway) == 0, 120, "every association has ended")
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
            head = exactly(sock, 6)
            exactly(sock, int.from_bytes(head[2:], "big"))
            if how == 1:
                sock.sendall(struct.pack(">BxLL", 5, 4, 0))
                sock.recv(10)
            elif how == 2:
                sock.sendall(struct.pack(">BxLxxBB", 7, 4, 0, 0))
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ROWS = (Idle(), Procession())
