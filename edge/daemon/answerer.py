"""The process that answers queries, as the daemon has it: started where [query] asks for it, replaced when it ends."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.config.sections import Config
from edge.daemon.receivers import ORDER_SECONDS, REPLACE_PAUSE_SECONDS
from edge.dicom.header import HeaderSearch
from edge.journal.service import JournalService
from edge.network.orders import end_quietly, give_order
from edge.network.sockets import wait_readable
from edge.query.asking import SOCKET_NAME, listen_for_doors
from edge.query.process import AnsweringPlan
from edge.scp.fork_server import ForkServer

log = logging.getLogger(__name__)

#: The number of the process among those that the fork server starts.
ANSWERING = 1


class Answerer:
    """See the module's docstring. It serves only while there is a [query] table."""

    def __init__(
        self,
        server: ForkServer,
        journal: JournalService,
        plan: Callable[[], tuple[Config, HeaderSearch]],
        data_dir: Path,
        lock: int,
    ) -> None:
        self._server, self._journal, self._plan, self._data_dir = server, journal, plan, data_dir
        self._data_lock, self._lock = lock, threading.Lock()
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._orders: socket.socket | None = None
        self._pidfd = -1
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="answers", daemon=True)

    def start(self) -> None:
        """Start it where it is wanted, and wait until it answers; not for long, where something hinders that."""
        if self._plan()[0].serves_queries and self._thread.ident is None:
            self._listener = listen_for_doors(self._data_dir)
            self._thread.start()
            self._ready.wait(ORDER_SECONDS)

    def configure(self) -> None:
        """Hand on the new configuration: new questions see it."""
        self.start()
        self._order("configure", *self._plan())

    def stop(self) -> None:
        self._stopping.set()
        with self._lock:
            if self._pidfd >= 0:
                end_quietly(self._pidfd)
        if self._thread.ident is not None:
            self._thread.join(ORDER_SECONDS)
        if self._listener is not None:
            self._listener.close()
            (self._data_dir / SOCKET_NAME).unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._start_one()
            except EOFError:
                return
            except OSError as error:
                log.error("the process that answers queries cannot be started: %s", error.strerror or error)
                self._stopping.wait(REPLACE_PAUSE_SECONDS)
                continue
            self._ready.set()
            wait_readable(self._pidfd)
            self._close()
            if not self._stopping.is_set():
                log.critical("the process that answers queries has ended: another one takes its place")
                self._stopping.wait(max(0.0, began + REPLACE_PAUSE_SECONDS - time.monotonic()))

    def _start_one(self) -> None:
        assert self._listener is not None
        orders, theirs = socket.socketpair()
        control = self._journal.ring.control.fd
        try:
            pid = self._server.start([theirs.fileno(), self._listener.fileno(), control, self._data_lock], ANSWERING)
            pidfd = os.pidfd_open(pid)
        except BaseException:
            orders.close()
            raise
        finally:
            theirs.close()
        with self._lock:
            self._orders, self._pidfd = orders, pidfd
        answer = self._order("begin", AnsweringPlan(*self._plan(), self._journal.ring.folder))
        for wall in (answer or {}).get("missing", ()):
            log.warning("the process that answers queries runs without %s: the kernel does not offer it here", wall)

    def _order(self, what: str, *values: Any) -> Any:
        """Have it do something; None where it has ended. One that does not answer is ended."""
        with self._lock:
            if self._orders is None:
                return None
            try:
                return give_order(self._orders, what, *values, seconds=ORDER_SECONDS)
            except (OSError, EOFError):
                end_quietly(self._pidfd)
                return None

    def _close(self) -> None:
        with self._lock:
            if self._orders is not None:
                self._orders.close()
            os.close(self._pidfd)
            self._orders, self._pidfd = None, -1
