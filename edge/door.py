"""The door: accepts connections and waits for their A-ASSOCIATE-RQ, in one event loop; nothing here costs a thread.

Until a peer has said who it is, it gets one small buffer, REQUEST_SECONDS, and a place in a bounded room: when that
is full, who has waited longest goes. A complete request is handed, with its socket, to a thread of its own (`serve`),
at most MAX_ASSOCIATIONS at once; beyond, it is rejected as "local limit exceeded" (PS3.8 table 9-21) without being
decoded.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from edge.dicom import pdu
from edge.dicom.associate import reject_pdu

log = logging.getLogger(__name__)

REQUEST_SECONDS = 15.0
MAX_ASSOCIATIONS = 320
MAX_WAITING = 512
MAX_WAITING_PER_ADDRESS = 128
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)

#: Serves one association to its end; owns the socket from the call on.
Serve = Callable[[socket.socket, bytes, str], None]


@dataclass(slots=True)
class _Caller:
    """A connection that has not yet said who it is."""

    sock: socket.socket
    address: str
    deadline: float
    data: bytearray = field(default_factory=bytearray)

    def missing(self) -> int:
        """Bytes still to come; 0 when the request is whole. Raises ValueError for what is no A-ASSOCIATE-RQ."""
        if self.data and self.data[0] != pdu.A_ASSOCIATE_RQ:
            tls = " (it speaks TLS, this port does not)" if self.data[0] == 0x16 else ""
            raise ValueError(f"its first byte is 0x{self.data[0]:02X}, not an A-ASSOCIATE-RQ{tls}")
        if len(self.data) < 6:
            return 6 - len(self.data)
        length = int.from_bytes(self.data[2:6], "big")
        if length > pdu.MAX_ASSOCIATE:
            raise ValueError(f"its A-ASSOCIATE-RQ claims {length} bytes, more than {pdu.MAX_ASSOCIATE}")
        return 6 + length - len(self.data)


class Door:
    """The listening socket and those who wait before it."""

    def __init__(self, host: str, port: int, serve: Serve) -> None:
        """Bind at once, so that a taken port is an error of the start. Raises OSError."""
        self._serve = serve
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server(
            (host, port), family=family, backlog=512, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
        )
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._selector.register(self._stop_reader, selectors.EVENT_READ)
        self._waiting: OrderedDict[socket.socket, _Caller] = OrderedDict()  # the oldest first
        self._places = threading.Semaphore(MAX_ASSOCIATIONS)
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._number = 0

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening and send away those who wait; associations go on."""
        self._stop_writer.send(b"x")
        self._thread.join()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._until_deadline()):
                if key.fileobj is self._stop_reader:
                    return self._leave()
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._waiting:
                    self._read(self._waiting[key.fileobj])
            self._send_away_late()

    def _leave(self) -> None:
        for caller in list(self._waiting.values()):
            self._send_away(caller, "the gateway is stopping")
        self._selector.close()
        for sock in (self._listener, self._stop_reader, self._stop_writer):
            sock.close()

    def _until_deadline(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, next(iter(self._waiting.values())).deadline - time.monotonic())

    def _accept(self) -> None:
        for _ in range(64):  # then look at those who are here already
            try:
                sock, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors: those who wait longest make room
                log.warning("could not accept a connection: %s", error.strerror)
                self._make_room(lambda _: True)
                return
            address = peer[0].removeprefix("::ffff:")
            self._limit(address)
            sock.setblocking(False)
            self._waiting[sock] = _Caller(sock, address, time.monotonic() + REQUEST_SECONDS)
            self._selector.register(sock, selectors.EVENT_READ)

    def _limit(self, address: str) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._make_room(lambda _: True)
        elif len(self._waiting) >= MAX_WAITING_PER_ADDRESS:
            counts = Counter(caller.address for caller in self._waiting.values())
            if counts[address] >= MAX_WAITING_PER_ADDRESS:
                self._make_room(lambda caller: caller.address == address)

    def _make_room(self, whom: Callable[[_Caller], bool]) -> None:
        oldest = next((caller for caller in self._waiting.values() if whom(caller)), None)
        if oldest is not None:
            self._send_away(oldest, "it was silent while others wanted its place")

    def _read(self, caller: _Caller) -> None:
        try:
            while (missing := caller.missing()) > 0:
                data = caller.sock.recv(missing)
                if not data:
                    return self._send_away(caller, "")
                caller.data += data
        except BlockingIOError:
            return None
        except (OSError, ValueError) as error:
            return self._send_away(caller, str(error))
        self._forget(caller)
        self._hand_over(caller)

    def _hand_over(self, caller: _Caller) -> None:
        caller.sock.setblocking(True)
        if not self._places.acquire(blocking=False):
            log.warning("association from %s rejected: %d are open, the most", caller.address, MAX_ASSOCIATIONS)
            try:
                caller.sock.settimeout(0.0)
                caller.sock.send(reject_pdu(*LOCAL_LIMIT_EXCEEDED))
            except OSError:
                pass  # it has gone: nobody is left to tell
            return caller.sock.close()
        self._number += 1
        name = f"association-{self._number}"
        threading.Thread(target=self._serve_one, args=(caller,), name=name, daemon=True).start()

    def _serve_one(self, caller: _Caller) -> None:
        try:
            self._serve(caller.sock, bytes(caller.data), caller.address)
        finally:
            caller.sock.close()
            self._places.release()

    def _send_away_late(self) -> None:
        now = time.monotonic()
        while self._waiting:
            caller = next(iter(self._waiting.values()))
            if caller.deadline > now:
                return
            self._send_away(caller, f"no A-ASSOCIATE-RQ within {REQUEST_SECONDS:.0f} s")

    def _send_away(self, caller: _Caller, why: str) -> None:
        if why:
            log.info("connection from %s closed: %s", caller.address, why)
        self._forget(caller)
        caller.sock.close()

    def _forget(self, caller: _Caller) -> None:
        self._selector.unregister(caller.sock)
        del self._waiting[caller.sock]
