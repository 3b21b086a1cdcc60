"""The listening sockets: accept connections, plain and TLS, and hand each on to a door (edge.scp.listener).

Nothing is read here. A port that is taken is an error of the start.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from edge.errors import Cause, hindrance
from edge.errors.hindrance import words_of
from edge.network import sockets

#: A pause while there is no descriptor, or no door, for a caller.
SHORT_SECONDS = 0.05
#: What is said of a connection: address, and whether it came to the port for TLS; JSON.
MOST_SAID_BYTES = 256

#: Hands on a connection, with its address, and whether TLS is to begin on it. The socket is the caller's to close.
HandOn = Callable[[socket.socket, str, bool], None]
Refused = Callable[[str, str, str], None]


def hand_on(feed: socket.socket, sock: socket.socket, address: str, is_secure: bool) -> None:
    """Give a connection to the door at the other end of `feed` (SOCK_SEQPACKET, not blocking). Raises OSError."""
    socket.send_fds(feed, [json.dumps([address, is_secure]).encode()], [sock.fileno()])


class Ports:
    """See the module's docstring."""

    def __init__(
        self,
        host: str,
        port: int | None,
        tls_port: int | None,
        refused: Refused,
        hindered: Callable[[Cause], None],
        inherited: Mapping[int, socket.socket] | None = None,
        name: str = "ports",
    ) -> None:
        """Bind at once; None: not at all. Raises OSError. `inherited`: sockets that listen already, by port.

        `hindered` takes what keeps us from taking callers in.
        """
        self._refused, self._hindered, self._inherited, self._name = refused, hindered, inherited or {}, name
        self._selector = selectors.DefaultSelector()
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._selector.register(self._stop_reader, selectors.EVENT_READ)
        self._listeners: list[socket.socket] = []
        faults: list[OSError] = []
        self.port = 0 if port is None else self._listen(host, port, faults, is_secure=False)
        self.tls_port = 0 if tls_port is None else self._listen(host, tls_port, faults, is_secure=True)
        if faults:
            self._shut()
            raise OSError(faults[0].errno, "; ".join(dict.fromkeys(str(each.strerror) for each in faults)))

    def _listen(self, host: str, port: int, faults: list[OSError], *, is_secure: bool) -> int:
        try:
            listener = self._inherited.get(port) or sockets.listen_on(host, port)
        except OSError as error:
            faults.append(error)
            return 0
        listener.setblocking(False)
        self._listeners.append(listener)
        self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener, is_secure))
        return int(listener.getsockname()[1])

    def open(self, hand_on: HandOn) -> None:
        """Accept from now on."""
        self._hand_on = hand_on
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop_writer.send(b"x")
        self._thread.join()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return self._shut()
                key.data()

    def _shut(self) -> None:
        self._selector.close()
        for sock in (*self._listeners, self._stop_reader, self._stop_writer):
            sock.close()

    def _accept(self, listener: socket.socket, is_secure: bool) -> None:
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            cause = hindrance.cause_of(error)
            self._hindered(cause)
            self._refused("", "", f"a connection could not be accepted: the gateway is {words_of(cause)}")
            time.sleep(SHORT_SECONDS)  # else the listener would be ready again at once
            return
        with sock:
            self._hand_on(sock, peer[0].removeprefix("::ffff:"), is_secure)
