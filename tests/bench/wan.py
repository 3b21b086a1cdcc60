"""A WAN on one machine: two network namespaces, and between them a line with delay, rate, loss and a router's queue.

    with Wan(Line(rtt=0.080, mbit=100)) as wan:
        wan.near.run(lambda: socket.create_connection((wan.far.address, 11112)))
        subprocess.run([*wan.near.prefix, "storescu", wan.far.address, ...])
        wan.cut(); wan.mend()

Each namespace has a TUN device; a process of its own carries the packets from one to the other, so no netem is needed,
only root and iproute2. It ends, and the namespaces with it, when its standard input does: at close(), or when whoever
made it dies. One line carries some 300 Mbit/s; above that the program is the limit, not the line.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
# linux/if_tun.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 1500
#: Packets that are taken from one end before the other end is looked at.
AT_ONCE = 32


@dataclass(frozen=True)
class Line:
    """What the line is like; both ways alike."""

    rtt: float  # seconds
    mbit: float  # per second
    loss: float = 0.0  # share of the packets, each way
    queue: float = 0.1  # seconds that the router's buffer holds at full rate


@dataclass(frozen=True)
class Namespace:
    """A network namespace that has one end of the line."""

    name: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """What to put before a command that is to run there."""
        return ["ip", "netns", "exec", self.name]

    def run(self, work: Callable[[], T]) -> T:
        """Do something there; sockets made by it stay there."""
        done: list[T] = []
        failed: list[BaseException] = []

        def inside() -> None:
            try:
                self._enter()
                done.append(work())
            except BaseException as error:  # noqa: BLE001  it is raised again below, where it was asked for
                failed.append(error)

        thread = threading.Thread(target=inside)  # of its own: a thread that has entered never comes back
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.name).open() as file:
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {self.name}")


class Wan:
    """The line and its two ends; a context manager. Needs root."""

    def __init__(self, line: Line, name: str = "") -> None:
        name = name or f"edge{os.getpid() % 100_000}"
        self.line = line
        self.near, self.far = Namespace(f"{name}-near", "10.213.7.1"), Namespace(f"{name}-far", "10.213.7.2")
        numbers = [str(value) for value in (line.rtt, line.mbit, line.loss, line.queue)]
        command = [sys.executable, str(Path(__file__).resolve()), name, *numbers]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.close()
            raise AssertionError(f"no line between {self.near.name} and {self.far.name}; its reasons stand above")

    def cut(self) -> None:
        """From now on every packet is lost."""
        self._say(b"-")

    def mend(self) -> None:
        self._say(b"+")

    def _say(self, word: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word)
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.communicate(timeout=20)

    def __enter__(self) -> Wan:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


# The process that carries the packets.


class Lane:
    """One way of the line. A packet joins the queue, is put on the wire in its turn, and is there a delay later."""

    def __init__(self, source: int, target: int, line: Line) -> None:
        self.source, self.target = source, target
        self._line, self._per_byte = line, 8 / (line.mbit * 1e6)
        self._wire_free = 0.0
        self._under_way: deque[tuple[float, bytes]] = deque()

    def next_arrival(self) -> float:
        return self._under_way[0][0] if self._under_way else float("inf")

    def take(self, now: float, is_cut: bool) -> None:
        """Packets that wait at the near end."""
        for _ in range(AT_ONCE):
            try:
                packet = os.read(self.source, MTU)
            except BlockingIOError:
                return
            waits = max(0.0, self._wire_free - now)
            if is_cut or waits > self._line.queue or random.random() < self._line.loss:
                continue
            self._wire_free = now + waits + len(packet) * self._per_byte
            self._under_way.append((self._wire_free + self._line.rtt / 2, packet))

    def bring(self, now: float) -> None:
        """Packets whose time has come to the far end."""
        while self.next_arrival() <= now:
            try:
                os.write(self.target, self._under_way.popleft()[1])
            except OSError:
                pass  # the far end has no room or is down: lost, as packets are


def carry(lanes: tuple[Lane, Lane]) -> None:
    """Until standard input ends."""
    is_cut = False
    commands = sys.stdin.fileno()
    while True:
        wait = min(lane.next_arrival() for lane in lanes) - time.monotonic()
        readable = select.select([commands, *(lane.source for lane in lanes)], [], [], min(max(wait, 0.0), 1.0))[0]
        if commands in readable:
            word = os.read(commands, 1)
            if not word:
                return
            is_cut = word == b"-"
        now = time.monotonic()
        for lane in lanes:
            if lane.source in readable:
                lane.take(now, is_cut)
            lane.bring(now)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def _end(here: Namespace, there: Namespace, device: str) -> Iterator[int]:
    """A namespace with a TUN device, and the descriptor that stands for its wire."""
    _ip("netns", "add", here.name)
    wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(wire, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
        _ip("link", "set", device, "netns", here.name)
        _ip("-n", here.name, "address", "add", here.address, "peer", there.address, "dev", device)
        _ip("-n", here.name, "link", "set", "lo", "up")
        _ip("-n", here.name, "link", "set", device, "mtu", str(MTU), "txqueuelen", "1000", "up")
        yield wire
    finally:
        os.close(wire)
        _ip("netns", "delete", here.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    for number in ("rtt", "mbit", "loss", "queue"):
        parser.add_argument(number, type=float)
    given = parser.parse_args()
    line = Line(given.rtt, given.mbit, given.loss, given.queue)
    near, far = Namespace(f"{given.name}-near", "10.213.7.1"), Namespace(f"{given.name}-far", "10.213.7.2")
    with _end(near, far, f"{given.name}n") as here, _end(far, near, f"{given.name}f") as there:
        print("ready", flush=True)
        carry((Lane(here, there, line), Lane(there, here, line)))


if __name__ == "__main__":
    main()
