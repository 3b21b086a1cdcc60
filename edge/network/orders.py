"""Orders of the daemon to a process of its own: what to do, pickled; each is answered, as JSON.

The process ends when the daemon does: what nobody will apply, or ask for, is not answered.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from edge.errors import place_of
from edge.network.frames import receive_frame, send_frame
from edge.network.sockets import wait_readable

log = logging.getLogger(__name__)

#: Certificates and repeated lines are looked after so often.
UPKEEP_SECONDS = 10.0


def give_order(sock: socket.socket, what: str, *values: Any, seconds: float) -> Any:
    """Have a process do something, and return its answer. Raises OSError and EOFError; also where it takes longer."""
    sock.settimeout(seconds)
    send_frame(sock, pickle.dumps((what, *values)))
    return json.loads(receive_frame(sock))


def end_quietly(pidfd: int) -> None:
    """Kill a process, if it has not ended: what it has to end in order, it was ordered before."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended


class Orders:
    """The process's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self) -> Any:
        """The next order: its name, and its values."""
        try:
            return pickle.loads(receive_frame(self._sock))  # the daemon's own word
        except (OSError, EOFError):
            os._exit(1)

    def answer(self, answer: Any) -> None:
        try:
            send_frame(self._sock, json.dumps(answer).encode())
        except OSError:
            os._exit(1)

    def serve(self, process: object, name: str, upkeep: Callable[[], None]) -> NoReturn:
        """Do what the daemon orders, by the methods of `process`, until the daemon has ended. `name`: for the log."""
        while True:
            if not wait_readable(self._sock.fileno(), seconds=UPKEEP_SECONDS):
                upkeep()
                continue
            what, *values = self.receive()
            try:
                answer = getattr(process, f"_{what}")(*values)
            except Exception as error:  # noqa: BLE001 - the daemon ends us
                log.critical("%s: %s", name, place_of(error))
                os._exit(1)
            self.answer(answer)
