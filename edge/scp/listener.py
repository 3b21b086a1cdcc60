"""The doors: accept connections, plain and TLS, and wait for their A-ASSOCIATE-RQ, in one event loop.

Until a peer has said who it is, it costs no thread: it gets a buffer for its request, REQUEST_SECONDS (a TLS handshake
included), and a place in a bounded room: when that is full, the caller with the most of them loses its oldest. All
requests together may take MAX_REQUEST_BYTES: when they would take more, the largest one goes. A complete request is
handed, with its socket, to a thread of its own (`serve`), where edge.capacity grants it a place; else it is rejected as
"local limit exceeded" (PS3.8 table 9-21) without being decoded.

A DICOM peer whose request is not taken gets an A-ABORT with the reason (PS3.8 section 9.3.8), and then some time and
bytes to read it: closing at once would reset the connection under it.

TLS begins with a peer's first byte, so that a silent one costs no more there than at the plain port.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from edge import hindrance, shares, sockets, tls
from edge.dicom import pdu
from edge.dicom.acse import calling_title, reject_pdu
from edge.errors import Cause, place_of
from edge.hindrance import words_of
from edge.scp.capacity import AssociationPlace, Associations, Limit
from edge.shares import Full, Places, caller_of

log = logging.getLogger(__name__)

REQUEST_SECONDS = 15.0
#: A pause of the loop while there is no descriptor for a caller.
SHORT_SECONDS = 0.05
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
#: Of requests that are being received or decoded. A usual one has a few kilobytes, the largest legal one 8 MiB.
MAX_REQUEST_BYTES = 4 * pdu.MAX_ASSOCIATE
USUAL_BYTES = 65_536  # below this a request is not weighed: their number is bounded anyway
#: How many may linger behind our A-ABORT, how long, and how much of theirs is read and dropped meanwhile.
MAX_LEAVING, LINGER_SECONDS, LINGER_BYTES = 64, 2.0, 1 << 20
NO_REASON, UNEXPECTED_PDU, INVALID_PARAMETER_VALUE = 0, 2, 6  # of A-ABORT (PS3.8 table 9-26)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_CLIENT_HELLO = 0x16  # the content type of a TLS handshake (RFC 8446 section 5.1)

#: Serves one association to its end; owns the socket and the request from the call on, and empties the latter soon.
Serve = Callable[[socket.socket, bytearray, str], None]
#: Hears of a refusal: address, calling AE title (empty: it had not said it), why.
Refused = Callable[[str, str, str], None]
Context = Callable[[], ssl.SSLContext]  # the TLS context of this moment


class _NotTaken(Exception):
    """A caller is refused: why, and what it is answered."""

    def __init__(self, why: str, answer: bytes = b"") -> None:
        super().__init__(why)
        self.answer = answer


@dataclass(slots=True, eq=False)
class PendingConnection:
    """A connection that has not yet said who it is."""

    sock: socket.socket
    address: str
    deadline: float
    context: Context | None  # for a connection at the TLS port
    data: bytearray = field(default_factory=bytearray)
    is_secure: bool = False  # the handshake is over
    dropped: int = 0  # bytes read behind our A-ABORT
    fd: int = field(init=False)  # of whichever socket object holds it: TLS makes a new one

    def __post_init__(self) -> None:
        self.fd = self.sock.fileno()

    def missing(self) -> int:
        """Bytes still to come; 0 when the request is whole. Raises _NotTaken for what is no A-ASSOCIATE-RQ."""
        if self.data and self.data[0] != pdu.A_ASSOCIATE_RQ:
            hint = " (it speaks TLS, this port does not)" if self.data[0] == _CLIENT_HELLO else ""
            is_dicom = self.data[0] <= pdu.A_ABORT
            why = f"its first byte is 0x{self.data[0]:02X}, not an A-ASSOCIATE-RQ{hint}"
            raise _NotTaken(why, pdu.abort(2, UNEXPECTED_PDU) if is_dicom else b"")
        if len(self.data) < 6:
            return 6 - len(self.data)
        length = int.from_bytes(self.data[2:6], "big")
        if length > pdu.MAX_ASSOCIATE:
            why = f"its A-ASSOCIATE-RQ claims {length} bytes, more than {pdu.MAX_ASSOCIATE}"
            raise _NotTaken(why, pdu.abort(2, INVALID_PARAMETER_VALUE))
        return 6 + length - len(self.data)

    def title(self) -> str:
        """Its AE title, as far as that has come; empty while the handshake goes on."""
        if self.data[:1] != b"\x01":
            return ""
        try:
            self.sock.setblocking(False)
            self.data += self.sock.recv(max(42 - len(self.data), 0))
        except OSError:
            pass  # no more has come
        return calling_title(self.data)

    def late(self) -> str:
        """What it has not done in time."""
        if self.context is not None and not self.is_secure:
            return f"no TLS handshake within {REQUEST_SECONDS:.0f} s"
        return f"no A-ASSOCIATE-RQ within {REQUEST_SECONDS:.0f} s"


class Door:
    """The listening sockets and those who wait before them."""

    def __init__(
        self,
        host: str,
        port: int | None,
        serve: Serve,
        *,
        tls_port: int | None = None,
        context: Context | None = None,
        refused: Refused = lambda address, calling_ae, why: None,
        hindered: Callable[[Cause], None] = lambda cause: None,
        inherited: Mapping[int, socket.socket] | None = None,
        associations: Associations | None = None,
    ) -> None:
        """Bind at once, so that a taken port is an error of the start; None: not at all. Raises OSError.

        `hindered` hears what keeps us from taking callers in. `context` is asked for at each connection to `tls_port`.
        `inherited`: sockets that listen already, by port.
        """
        self._serve, self._refused, self._inherited = serve, refused, inherited or {}
        self._hindered, self._associations = hindered, associations or Associations()
        self._selector = selectors.DefaultSelector()
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._selector.register(self._stop_reader, READ)
        self._listeners: list[socket.socket] = []
        try:
            self.port = 0 if port is None else self._listen(host, port, None)
            self.tls_port = 0 if tls_port is None else self._listen(host, tls_port, context)
        except OSError:
            self._shut()
            raise
        self._waiting: dict[PendingConnection, None] = {}  # the oldest first
        self._leaving: dict[PendingConnection, None] = {}  # answered with A-ABORT; the oldest first
        self._serving: set[PendingConnection] = set()
        self._waiting_places = Places(shares.UNASSOCIATED)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._number = 0

    def _listen(self, host: str, port: int, context: Context | None) -> int:
        listener = self._inherited.get(port) or sockets.listen_on(host, port)
        listener.setblocking(False)
        self._listeners.append(listener)
        self._selector.register(listener, READ, partial(self._accept, listener, context))
        return int(listener.getsockname()[1])

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening and send away those who wait; associations go on."""
        self._stop_writer.send(b"x")
        self._thread.join()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._until_deadline()):
                if key.data is None:
                    return self._leave()
                key.data()
            self._send_away_late()

    def _leave(self) -> None:
        for caller in list(self._waiting):
            self._drop(caller, "")
        for caller in list(self._leaving):
            self._let_go(caller)
        self._shut()

    def _shut(self) -> None:
        self._selector.close()
        for sock in (*self._listeners, self._stop_reader, self._stop_writer):
            sock.close()

    def _until_deadline(self) -> float | None:
        first = [next(iter(callers)).deadline for callers in (self._waiting, self._leaving) if callers]
        return max(0.0, min(first) - time.monotonic()) if first else None

    # -- coming in ----------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, context: Context | None) -> None:
        for _ in range(64):  # then look at those who are here already
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors: those who wait longest make room
                cause = hindrance.cause_of(error)
                self._hindered(cause)
                self._refused("", "", f"a connection could not be accepted: the gateway is {words_of(cause)}")
                if not self._make_room(lambda _: True):
                    time.sleep(SHORT_SECONDS)  # nobody can be sent away: the listener would be ready again at once
                return
            address = peer[0].removeprefix("::ffff:")
            self._limit(address)
            sock.setblocking(False)
            caller = PendingConnection(sock, address, time.monotonic() + REQUEST_SECONDS, context)
            self._waiting[caller] = None
            self._selector.register(caller.fd, READ, partial(self._advance, caller))

    def _limit(self, address: str) -> None:
        """Take a place for one who waits. The caller that has the most of them makes room, with its oldest."""
        caller = caller_of(address)
        full = self._waiting_places.take(caller)
        if full is not None:
            greedy = caller if full is Full.EACH else self._waiting_places.greediest()
            self._make_room(lambda each: caller_of(each.address) == greedy)
            self._waiting_places.add(caller)

    def _make_room(self, whom: Callable[[PendingConnection], bool]) -> bool:
        if (oldest := next(filter(whom, self._waiting), None)) is not None:
            self._drop(oldest, "it was silent while others wanted its place")
        return oldest is not None

    # -- what they say ------------------------------------------------------------------------------------------------

    def _advance(self, caller: PendingConnection) -> None:
        """Its socket can be read, or written in a handshake: go on with it as far as that leads."""
        if caller in self._leaving:
            self._drop_what_comes(caller)
        if caller not in self._waiting:
            return  # it was sent away for another's sake in this very turn
        try:
            if caller.context is not None and not caller.is_secure:
                self._shake_hands(caller, caller.context)
            self._read(caller)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._watch(caller, READ)
        except ssl.SSLWantWriteError:
            self._watch(caller, WRITE)
        except ssl.SSLError as error:
            self._drop(caller, f"no TLS with it: {tls.explain(error)}")
        except OSError as error:
            self._drop(caller, str(error.strerror or error))
        except _NotTaken as error:
            self._drop(caller, str(error), error.answer)
        except Exception as error:  # noqa: BLE001 - whatever one caller provokes, the door stays open
            log.error("a caller at the door: %s", place_of(error))
            self._drop(caller, "an unexpected fault of ours")

    def _watch(self, caller: PendingConnection, events: int) -> None:
        key = self._selector.get_key(caller.fd)
        if key.events != events:
            self._selector.modify(caller.fd, events, key.data)

    def _shake_hands(self, caller: PendingConnection, context: Context) -> None:
        if not isinstance(caller.sock, ssl.SSLSocket):
            first = caller.sock.recv(1, socket.MSG_PEEK)
            if not first:
                raise ConnectionError("")
            if first[0] == pdu.A_ASSOCIATE_RQ:
                raise _NotTaken("it speaks DICOM without TLS, this port takes TLS only")
            caller.sock = context().wrap_socket(caller.sock, server_side=True, do_handshake_on_connect=False)
        caller.sock.do_handshake()
        caller.is_secure = True

    def _read(self, caller: PendingConnection) -> None:
        while (missing := caller.missing()) > 0:
            data = caller.sock.recv(min(missing, USUAL_BYTES))
            if not data:
                return self._drop(caller, "")
            caller.data += data
            if len(caller.data) > USUAL_BYTES and not self._has_room(caller):
                return None
        self._forget(caller)
        self._hand_over(caller)

    def _has_room(self, caller: PendingConnection) -> bool:
        """Do all requests fit into MAX_REQUEST_BYTES? Else the largest that is still received goes; False: this one."""
        with self._lock:
            serving = list(self._serving)
        while sum(len(each.data) for each in (*self._waiting, *serving)) > MAX_REQUEST_BYTES:
            largest = max(self._waiting, key=lambda each: len(each.data))
            why = (
                f"the requests that are being received take more than {MAX_REQUEST_BYTES} bytes, and its is the largest"
            )
            self._drop(largest, why, pdu.abort(2, NO_REASON))
            if largest is caller:
                return False
        return True

    def _hand_over(self, caller: PendingConnection) -> None:
        caller.sock.setblocking(True)
        place = self._associations.take(calling_title(caller.data), caller.address)
        if isinstance(place, Limit):
            return self._reject(caller, place.why, Cause.PLACES if place.full is Full.ALL else None)
        self._number += 1
        name = f"association-{self._number}"
        try:
            threading.Thread(target=self._serve_one, args=(caller, place), name=name, daemon=True).start()
        except RuntimeError:
            self._associations.give_back(place)
            self._reject(caller, "the system gives no more threads", Cause.THREADS)

    def _reject(self, caller: PendingConnection, why: str, cause: Cause | None = None) -> None:
        if cause is not None:
            self._hindered(cause)
        self._refused(caller.address, "", why)
        caller.data.clear()
        try:
            caller.sock.settimeout(0.0)
            caller.sock.send(reject_pdu(*LOCAL_LIMIT_EXCEEDED))
        except OSError:
            pass  # it has gone: nobody is left to tell
        caller.sock.close()

    def _serve_one(self, caller: PendingConnection, place: AssociationPlace) -> None:
        with self._lock:
            self._serving.add(caller)
        try:
            self._serve(caller.sock, caller.data, caller.address)
        finally:
            with self._lock:
                self._serving.discard(caller)
            caller.sock.close()
            self._associations.give_back(place)

    # -- going --------------------------------------------------------------------------------------------------------

    def _send_away_late(self) -> None:
        now = time.monotonic()
        while self._leaving and (caller := next(iter(self._leaving))).deadline <= now:
            self._let_go(caller)
        while self._waiting and (caller := next(iter(self._waiting))).deadline <= now:
            self._drop(caller, caller.late())

    def _drop(self, caller: PendingConnection, why: str, answer: bytes = b"") -> None:
        """Say why, where there is something to say, answer, and close."""
        if why:
            self._refused(caller.address, caller.title(), why)
        if caller not in self._waiting:
            return _close(caller.sock)
        if not answer or not self._answer(caller, answer):
            self._forget(caller)
            return _close(caller.sock)
        self._leave_waiting(caller)
        caller.data.clear()
        caller.deadline = time.monotonic() + LINGER_SECONDS
        if len(self._leaving) >= MAX_LEAVING:
            self._let_go(next(iter(self._leaving)))
        self._leaving[caller] = None
        self._watch(caller, READ)

    @staticmethod
    def _answer(caller: PendingConnection, answer: bytes) -> bool:
        try:
            caller.sock.send(answer)
            socket.socket.shutdown(caller.sock, socket.SHUT_WR)
            return True
        except OSError:
            return False  # it has gone: nobody is left to answer

    def _drop_what_comes(self, caller: PendingConnection) -> None:
        """Read on behind our A-ABORT, until the peer has read it and closes, or has sent LINGER_BYTES more."""
        try:
            while (count := len(socket.socket.recv(caller.sock, USUAL_BYTES))) and caller.dropped < LINGER_BYTES:
                caller.dropped += count
        except BlockingIOError:
            return
        except OSError:
            pass  # it has reset the connection
        self._let_go(caller)

    def _let_go(self, caller: PendingConnection) -> None:
        self._selector.unregister(caller.fd)
        del self._leaving[caller]
        caller.sock.close()

    def _forget(self, caller: PendingConnection) -> None:
        self._selector.unregister(caller.fd)
        self._leave_waiting(caller)

    def _leave_waiting(self, caller: PendingConnection) -> None:
        del self._waiting[caller]
        self._waiting_places.give_back(caller_of(caller.address))


def _close(sock: socket.socket) -> None:
    """Close, without resetting the connection under an alert that tells the peer why: first read what it has sent."""
    try:
        socket.socket.recv(sock, USUAL_BYTES)
    except OSError:
        pass  # nothing was left to read, or it has gone
    sock.close()
