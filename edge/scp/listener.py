"""A door: gets connections from the ports (edge.scp.ports), and receives what each one says first, in one event loop.

TLS handshakes are made here. What a first message is, how long it may be and how it is answered, a `WireProtocol` says:
no DICOM, HL7 or HTTP here.

Until a caller's first message is whole it costs no thread: it gets a buffer, REQUEST_SECONDS (a TLS handshake
included), and a place in a bounded room: when that is full, the caller with the most of them loses its oldest. All
first messages together may take MAX_REQUEST_BYTES: when they would take more, the largest one goes. A whole one is
handed, with its socket, to a thread of its own (`serve`), where the gateway grants it a place; else it is rejected
without being decoded. Where there are several doors, each has its part of the room.

A caller that is refused may get an answer with the reason, and then some time and bytes to read it: closing at once
would reset the connection under it. TLS begins with a caller's first byte: a silent one costs no more there.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from edge.errors import Cause, place_of
from edge.errors.hindrance import words_of
from edge.network import shares, tls
from edge.network.shares import Full, Places, Share, caller_of
from edge.network.sockets import shut_down
from edge.scp.admission import make_unnamed_caller
from edge.scp.capacity import Limit
from edge.scp.gateway_link import GatewayLink
from edge.scp.ports import MOST_SAID_BYTES

log = logging.getLogger(__name__)

REQUEST_SECONDS = 15.0
#: Of first messages that are being received or decoded. A usual one has a few kilobytes, the largest legal one 8 MiB.
MAX_REQUEST_BYTES = 4 * 8_520_138
USUAL_BYTES = 65_536  # below this a request is not weighed: their number is bounded anyway
#: How many may linger behind our answer, how long, and how much of theirs is read and dropped meanwhile.
MAX_LEAVING, LINGER_SECONDS, LINGER_BYTES = 64, 2.0, 1 << 20

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
CLIENT_HELLO = 0x16  # the content type of a TLS handshake (RFC 8446 section 5.1)

#: Serves one connection to its end; owns the socket and the first message from the call on, and empties that soon.
ServeConnection = Callable[[socket.socket, bytearray, str], None]
TlsContext = Callable[[], ssl.SSLContext]  # the TLS context of this moment


class CallerRefused(Exception):
    """A caller is refused: why, and what it is answered. `is_mistaken`: it is equipment with a wrong setting of TLS."""

    def __init__(self, why: str, answer: bytes = b"", *, is_mistaken: bool = False) -> None:
        super().__init__(why)
        self.answer, self.is_mistaken = answer, is_mistaken


class WireProtocol(Protocol):
    """What the first message of a protocol is."""

    name: str  # for people, as is that of the first message
    first_message: str
    title_bytes: int  # of the first message, in which the caller's name is found
    too_many: bytes  # the answer where there is no place for one more
    too_large: bytes  # the answer where first messages take too much memory

    def missing(self, data: bytearray) -> int:
        """Bytes still to come of a first message; 0 when it is whole. Raises CallerRefused for anything else."""

    def title(self, data: bytearray) -> str:
        """The name that the caller gives itself, as far as it has come; empty where that is nothing."""

    def is_plain(self, first: int) -> bool:
        """Does a connection whose first byte is this speak the protocol without TLS?"""


@dataclass(slots=True, eq=False)
class PendingConnection:
    """A connection that has not yet said who it is."""

    sock: socket.socket
    address: str
    deadline: float
    context: TlsContext | None  # for a connection at the TLS port
    data: bytearray = field(default_factory=bytearray)
    is_secure: bool = False  # the handshake is over
    dropped: int = 0  # bytes read behind our answer
    fd: int = field(init=False)  # of whichever socket object holds it: TLS makes a new one

    def __post_init__(self) -> None:
        self.fd = self.sock.fileno()

    def receive_title(self, protocol: WireProtocol) -> str:
        """The name that it gives itself, as far as that has come; empty while the handshake goes on."""
        if not self.data or not protocol.is_plain(self.data[0]):
            return ""
        with suppress(OSError):  # no more has come
            self.sock.setblocking(False)
            self.data += self.sock.recv(max(protocol.title_bytes - len(self.data), 0))
        return protocol.title(self.data)

    def lateness(self, protocol: WireProtocol) -> str:
        """What it has not done in time."""
        if self.context is not None and not self.is_secure:
            return f"no TLS handshake within {REQUEST_SECONDS:.0f} s"
        return f"no {protocol.first_message} within {REQUEST_SECONDS:.0f} s"


class ConnectionListener:
    """The connections of a door that wait to be served. It closes with its feed; associations continue."""

    def __init__(
        self,
        feed: socket.socket,
        serve: ServeConnection,
        protocol: WireProtocol,
        link: GatewayLink,
        context: TlsContext | None = None,
        doors: int = 1,
    ) -> None:
        """`feed`: where connections come from (edge.scp.ports.hand_on). `context` is asked for at each one with TLS.

        `doors`: as many share the room for those who wait.
        """
        self._feed, self._serve, self._protocol, self._link, self._context = feed, serve, protocol, link, context
        feed.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(feed, READ)
        self._waiting: dict[PendingConnection, None] = {}  # the oldest first
        self._leaving: dict[PendingConnection, None] = {}  # answered; the oldest first
        self._serving: set[PendingConnection] = set()
        room = shares.UNASSOCIATED
        self._waiting_places = Places(Share(room.each // doors, room.all // doors))
        self._most_bytes = MAX_REQUEST_BYTES // doors
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._number = 0

    def open(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until it has closed."""
        self._thread.join()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._until_deadline()):
                if key.data is not None:
                    key.data()
                elif not self._accept_waiting():
                    return self._leave()
            self._drop_late()

    def _leave(self) -> None:
        for caller in list(self._waiting):
            self._drop(caller, "")
        for caller in list(self._leaving):
            self._close_leaving(caller)
        self._selector.close()
        self._feed.close()

    def _until_deadline(self) -> float | None:
        first = [next(iter(callers)).deadline for callers in (self._waiting, self._leaving) if callers]
        return max(0.0, min(first) - time.monotonic()) if first else None

    # -- coming in ----------------------------------------------------------------------------------------------------

    def _accept_waiting(self) -> bool:
        """Take in those who have come. False: nobody will come any more."""
        for _ in range(64):  # then go on with those who are here already
            try:
                said, descriptors, _, _ = socket.recv_fds(self._feed, MOST_SAID_BYTES, 1)
            except BlockingIOError:
                return True
            if not said:
                return False
            address, is_secure = json.loads(said)
            if not descriptors:  # out of them: those who wait longest make room
                self._link.note_hindrance(Cause.DESCRIPTORS)
                self._link.note_refusal(address, "", f"the gateway is {words_of(Cause.DESCRIPTORS)}")
                self._link.note_left()
                self._make_room(lambda _: True)
                continue
            self._limit(address)
            sock = socket.socket(fileno=descriptors[0])
            sock.setblocking(False)
            context = self._context if is_secure else None
            caller = PendingConnection(sock, address, time.monotonic() + REQUEST_SECONDS, context)
            self._waiting[caller] = None
            self._selector.register(caller.fd, READ, partial(self._advance, caller))
        return True

    def _limit(self, address: str) -> None:
        """Take a place for one who waits. The caller that has the most of them makes room, with its oldest."""
        caller = caller_of(address)
        full = self._waiting_places.take(caller)
        if full is not None:
            greedy = caller if full is Full.EACH else self._waiting_places.largest_holder()
            self._make_room(lambda each: caller_of(each.address) == greedy)
            self._waiting_places.add(caller)

    def _make_room(self, which: Callable[[PendingConnection], bool]) -> None:
        """The oldest of them makes room; but what it has sent, unread in a crowd, is read first."""
        oldest = next(filter(which, self._waiting), None)
        if oldest is None:
            return
        self._advance(oldest)
        if oldest in self._waiting:
            self._drop(oldest, "it was silent while others wanted its place")

    # -- what they say ------------------------------------------------------------------------------------------------

    def _advance(self, caller: PendingConnection) -> None:
        """Its socket can be read, or written in a handshake: go on with it as far as that leads."""
        if caller in self._leaving:
            self._discard_input(caller)
        if caller not in self._waiting:
            return  # it was sent away for another's sake in this very turn
        try:
            if caller.context is not None and not caller.is_secure:
                self._do_handshake(caller, caller.context)
            self._read(caller)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._watch(caller, READ)
        except ssl.SSLWantWriteError:
            self._watch(caller, WRITE)
        except ssl.SSLError as error:
            why = f"no TLS with it: {tls.explain(error)}"
            if not tls.has_left(error):
                self._link.note_call(*make_unnamed_caller(caller.address, tls.explain(error)), (), 0)
            self._drop(caller, why)
        except OSError as error:
            self._drop(caller, str(error.strerror or error))
        except CallerRefused as error:
            if error.is_mistaken:
                self._link.note_call(*make_unnamed_caller(caller.address, str(error)), (), 0)
            self._drop(caller, str(error), error.answer)
        except Exception as error:  # noqa: BLE001 - whatever one caller provokes, the door stays open
            log.error("a caller at the door: %s", place_of(error))
            self._drop(caller, "an unexpected fault of ours")

    def _watch(self, caller: PendingConnection, events: int) -> None:
        key = self._selector.get_key(caller.fd)
        if key.events != events:
            self._selector.modify(caller.fd, events, key.data)

    def _do_handshake(self, caller: PendingConnection, context: TlsContext) -> None:
        if not isinstance(caller.sock, ssl.SSLSocket):
            first = caller.sock.recv(1, socket.MSG_PEEK)
            if not first:
                raise ConnectionError("")
            if self._protocol.is_plain(first[0]):
                why = f"it speaks {self._protocol.name} without TLS, this port takes TLS only"
                raise CallerRefused(why, is_mistaken=True)
            caller.sock = context().wrap_socket(caller.sock, server_side=True, do_handshake_on_connect=False)
        caller.sock.do_handshake()
        caller.is_secure = True

    def _read(self, caller: PendingConnection) -> None:
        while (missing := self._protocol.missing(caller.data)) > 0:
            data = caller.sock.recv(min(missing, USUAL_BYTES))
            if not data:
                return self._drop(caller, "")
            caller.data += data
            if len(caller.data) > USUAL_BYTES and not self._has_room(caller):
                return None
        self._forget(caller)
        self._hand_over(caller)

    def _has_room(self, caller: PendingConnection) -> bool:
        """Do all requests fit into the room for them? Else the largest that is still received goes; False: this one."""
        with self._lock:
            serving = list(self._serving)
        while sum(_weigh(each) for each in (*self._waiting, *serving)) > self._most_bytes:
            largest = max(self._waiting, key=lambda each: len(each.data))
            why = f"the requests that are being received take more than {self._most_bytes} bytes; its is the largest"
            self._drop(largest, why, self._protocol.too_large)
            if largest is caller:
                return False
        return True

    def _hand_over(self, caller: PendingConnection) -> None:
        caller.sock.setblocking(True)
        place = self._link.take_place(self._protocol.title(caller.data), caller.address)
        if isinstance(place, Limit):
            return self._reject(caller, place.why, Cause.PLACES if place.full is Full.ALL else None)
        self._number += 1
        name = f"association {self._number}"
        try:
            threading.Thread(target=self._serve_one, args=(caller, place), name=name, daemon=True).start()
        except RuntimeError:
            self._link.give_back_place(place)
            self._reject(caller, "the system gives no more threads", Cause.THREADS)

    def _reject(self, caller: PendingConnection, why: str, cause: Cause | None = None) -> None:
        if cause is not None:
            self._link.note_hindrance(cause)
        self._link.note_refusal(caller.address, "", why)
        caller.data.clear()
        with suppress(OSError):  # it has gone: nobody is left to tell
            caller.sock.settimeout(0.0)
            caller.sock.send(self._protocol.too_many)
        caller.sock.close()

    def _serve_one(self, caller: PendingConnection, place: int) -> None:
        with self._lock:
            self._serving.add(caller)
        try:
            self._serve(caller.sock, caller.data, caller.address)
        finally:
            with self._lock:
                self._serving.discard(caller)
            caller.sock.close()
            self._link.give_back_place(place)

    # -- going --------------------------------------------------------------------------------------------------------

    def _drop_late(self) -> None:
        now = time.monotonic()
        while self._leaving and (caller := next(iter(self._leaving))).deadline <= now:
            self._close_leaving(caller)
        while self._waiting and (caller := next(iter(self._waiting))).deadline <= now:
            self._drop(caller, caller.lateness(self._protocol))

    def _drop(self, caller: PendingConnection, why: str, answer: bytes = b"") -> None:
        """Say why, where there is something to say, answer, and close."""
        if why:
            self._link.note_refusal(caller.address, caller.receive_title(self._protocol), why)
        if caller not in self._waiting:
            return _close(caller.sock)
        self._link.note_left()
        if not answer or not self._answer(caller, answer):
            self._forget(caller)
            return _close(caller.sock)
        self._leave_waiting(caller)
        caller.data.clear()
        caller.deadline = time.monotonic() + LINGER_SECONDS
        if len(self._leaving) >= MAX_LEAVING:
            self._close_leaving(next(iter(self._leaving)))
        self._leaving[caller] = None
        self._watch(caller, READ)

    @staticmethod
    def _answer(caller: PendingConnection, answer: bytes) -> bool:
        try:
            caller.sock.send(answer)
            return shut_down(caller.sock, socket.SHUT_WR)
        except OSError:
            return False  # it has gone: nobody is left to answer

    def _discard_input(self, caller: PendingConnection) -> None:
        """Read on behind our answer, until the peer has read it and closes, or has sent LINGER_BYTES more."""
        try:
            while (count := len(socket.socket.recv(caller.sock, USUAL_BYTES))) and caller.dropped < LINGER_BYTES:
                caller.dropped += count
        except BlockingIOError:
            return
        except OSError:
            pass  # it has reset the connection
        self._close_leaving(caller)

    def _close_leaving(self, caller: PendingConnection) -> None:
        self._selector.unregister(caller.fd)
        del self._leaving[caller]
        caller.sock.close()

    def _forget(self, caller: PendingConnection) -> None:
        self._selector.unregister(caller.fd)
        self._leave_waiting(caller)

    def _leave_waiting(self, caller: PendingConnection) -> None:
        del self._waiting[caller]
        self._waiting_places.give_back(caller_of(caller.address))


def _weigh(caller: PendingConnection) -> int:
    size = len(caller.data)
    return size if size > USUAL_BYTES else 0


def _close(sock: socket.socket) -> None:
    """Close, without resetting the connection under an alert that tells the peer why: first read what it has sent."""
    with suppress(OSError):  # nothing was left to read, or it has gone
        socket.socket.recv(sock, USUAL_BYTES)
    sock.close()
