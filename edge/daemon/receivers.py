"""The receiving processes, as the daemon has them: each connection goes to the one with the fewest, what they ask is
answered, and one that has ended is replaced.

A thread for each serves its link. When a process ends, its places are given back and what it has appended is applied.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge.config.sections import Config
from edge.dicom.header import HeaderSearch
from edge.errors import Hindered
from edge.journal.door import JournalDoor
from edge.journal.service import SLOTS, JournalService
from edge.network.orders import end_quietly, give_order
from edge.network.sockets import wait_readable
from edge.scp.fork_server import ForkServer
from edge.scp.gateway_link import LocalLink
from edge.scp.ports import SHORT_SECONDS, hand_on
from edge.scp.receiving import ReceiverPlan
from edge.scp.remote_link import serve_link
from edge.worker.roster import run_side_by_side

log = logging.getLogger(__name__)

#: Receiving processes at most; fewer where there are fewer cores.
MOST_RECEIVERS = 4
#: A process that does not answer an order within this time is ended.
ORDER_SECONDS = 10.0
#: One that ended is replaced at once; the next one after this time, in case they all end.
REPLACE_PAUSE_SECONDS = 1.0
#: A connection waits this long for a process that takes it.
HAND_ON_SECONDS = 5.0


def count_receivers() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_RECEIVERS)


class _Process:
    """One receiving process, from its start to its end."""

    def __init__(self, server: ForkServer, which: int, door: JournalDoor, link: LocalLink, lock: int) -> None:
        """Raises OSError or EOFError."""
        self.door, self.link = door, link
        feeds = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pairs = [feeds, socket.socketpair(), socket.socketpair()]
        self.feed, self.asks, self._orders = (ours for ours, _ in pairs)
        self.feed.setblocking(False)
        self._lock = threading.Lock()
        try:
            self.pid = server.start([*(theirs.fileno() for _, theirs in pairs), lock, *door.descriptors], which)
        finally:
            for _, theirs in pairs:
                theirs.close()
        self._pidfd = os.pidfd_open(self.pid)

    def order(self, what: str, *values: Any, seconds: float = ORDER_SECONDS) -> Any:
        """Have it do something, and return its answer; None where it has ended. One that does not answer is ended."""
        try:
            with self._lock:
                return give_order(self._orders, what, *values, seconds=seconds)
        except (OSError, EOFError):
            self.kill()
            return None

    def kill(self) -> None:
        end_quietly(self._pidfd)

    def drain(self, seconds: float) -> None:
        """Have it end in order."""
        self.feed.close()
        self.order("drain", seconds, seconds=seconds + ORDER_SECONDS)
        self._orders.close()

    def wait_for_end(self) -> None:
        """Its link has ended: the rest of it ends as well."""
        self.kill()
        wait_readable(self._pidfd)

    def close(self) -> None:
        """Close the sockets of a process that has ended, and give back what it held."""
        self.link.close()
        for sock in (self.feed, self.asks, self._orders):
            sock.close()
        os.close(self._pidfd)


@dataclass(frozen=True, slots=True)
class WhichDoor:
    """What kind of receiving processes."""

    name: str
    which: int  # of the fork server's functions
    slots: int  # receive buffers, of all of them
    count: int = 0  # processes; 0: as many as pay


#: HL7: one process for all feeds, for the order of arrival (edge.hl7.recorder); at 500 messages a second apply may be
#: half a second behind.
DICOM_DOOR, WEB_DOOR, HL7_DOOR = WhichDoor("", 0, SLOTS), WhichDoor("web", 2, 192, 1), WhichDoor("hl7", 3, 256, 1)


class Receivers:
    """See the module's docstring."""

    def __init__(
        self,
        server: ForkServer,
        journal: JournalService,
        make_link: Callable[[], LocalLink],
        plan: Callable[[], tuple[Config, HeaderSearch]],
        lock: int,
        door: WhichDoor = DICOM_DOOR,
    ) -> None:
        """`plan`: the current configuration. `lock`: of the data directory, which each process holds as well."""
        self._server, self._journal, self._make_link, self._plan = server, journal, make_link, plan
        self._data_lock, self.count, self._door = lock, door.count or count_receivers(), door
        self._starting = threading.Lock()  # nor is a configuration given meanwhile
        self._running: list[_Process] = []
        self._stopping = threading.Event()
        self._started = threading.Semaphore(0)
        names = [f"receiver {door.name or number + 1}" for number in range(self.count)]
        self._threads = [threading.Thread(target=self._keep_one, name=name, daemon=True) for name in names]

    def start(self) -> None:
        """Start all, and wait until they receive; not for long, where something hinders that."""
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._started.acquire(timeout=ORDER_SECONDS)

    def _keep_one(self) -> None:
        while not self._stopping.is_set():
            try:
                process = self._start_one()
            except EOFError:
                log.critical("the fork server has ended")
                return
            except (OSError, Hindered) as error:
                log.error("no receiving process can be started: %s", error)
                self._stopping.wait(REPLACE_PAUSE_SECONDS)
                continue
            self._started.release()
            began = time.monotonic()
            serve_link(process.asks, process.link)
            self._running.remove(process)
            process.wait_for_end()
            process.close()
            self._journal.close_door(process.door)
            if not self._stopping.is_set():
                log.critical("a receiving process has ended, with its associations: another one takes its place")
                self._stopping.wait(max(0.0, began + REPLACE_PAUSE_SECONDS - time.monotonic()))

    def _start_one(self) -> _Process:
        with self._starting:
            door = self._journal.open_door(self._door.slots // self.count)
            try:
                process = _Process(self._server, self._door.which, door, self._make_link(), self._data_lock)
            except BaseException:
                self._journal.close_door(door)
                raise
            answer = process.order("begin", ReceiverPlan(*self._plan(), door.plan, self.count))
            for wall in (answer or {}).get("missing", ()):
                log.warning("receiving processes run without %s: the kernel does not offer it here", wall)
            self._running.append(process)
            return process

    def check(self) -> None:
        """Raises where a receiving process is not replaced any more, for whatever reason: only a restart helps."""
        ended = [each.name for each in self._threads if each.ident is not None and not each.is_alive()]
        if ended and not self._stopping.is_set():
            raise RuntimeError(f"{', '.join(ended)} is not replaced any more when it ends")

    def hand_on(self, sock: socket.socket, address: str, is_secure: bool) -> str:
        """Give a connection to the process that has the fewest. Returns why it could not be; empty: it has gone."""
        end = time.monotonic() + HAND_ON_SECONDS
        while time.monotonic() < end and not self._stopping.is_set():
            for process in sorted(self._running, key=lambda each: each.link.connections):
                process.link.note_handed_on()
                try:
                    hand_on(process.feed, sock, address, is_secure)
                    return ""
                except OSError:
                    process.link.note_left()
            time.sleep(SHORT_SECONDS)
        return "no receiving process takes it"

    def end_idle(self, caller: str, modality: str) -> bool:
        """End an association, of a caller or a modality, that is idle. See edge.scp.association."""
        return any(
            process.order("end_idle", caller, modality) for process in self._running if not self._stopping.is_set()
        )

    def configure(self) -> None:
        """Hand on the new configuration: new associations see it."""
        with self._starting:
            plan = self._plan()
            run_side_by_side([partial(process.order, "configure", *plan) for process in list(self._running)])

    def drain(self, seconds: float) -> None:
        """End in order: associations when they pause, at the latest after this time; then the processes."""
        self._stopping.set()
        run_side_by_side([partial(process.drain, seconds) for process in list(self._running)])
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(ORDER_SECONDS)
