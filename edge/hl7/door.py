"""The MLLP door: gets connections from the ports (edge.scp.ports), cuts frames, records them, answers. One event loop.

Promise: AA is sent only when the frame is a record of the journal. One loop and one writer: records have the order of
arrival, and a connection's messages are answered in order. What cannot be recorded is not answered: the connection is
closed, and the sender keeps the message.

Limits: bytes of frames that have begun, over all connections; one frame; connections of a feed and of all; the time for
a handshake, for the rest of a frame, for bytes outside frames, and for reading our answer. An idle connection stays.
"""

from __future__ import annotations

import itertools
import json
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from edge.config.sections import Feed
from edge.errors import EdgeError, place_of
from edge.hl7 import acknowledgement
from edge.hl7.connection import (
    RECEIVE_BYTES,
    USUAL_LIMITS,
    Connection,
    DoorLimits,
    certificate_fault,
    find_feed,
    keep_alive,
)
from edge.hl7.form import find_fault
from edge.hl7.framing import FrameReader, FrameTooLong, frame
from edge.hl7.message import parse_message, split_batch
from edge.hl7.recorder import FrameRecorder
from edge.journal.kinds.hl7_frame import Hl7Frame
from edge.network import tls

log = logging.getLogger(__name__)

READABLE, WRITABLE = selectors.EVENT_READ, selectors.EVENT_WRITE
MOST_CAPTION_BYTES = 256
#: How often it is noted that a connection is in use.
FEED_NOTE_SECONDS = 600.0
_LATE_FRAME = "a frame had begun, and its rest did not come in time"


class MllpDoor:
    """See the module's docstring. It closes when its feed of connections does."""

    def __init__(
        self,
        source: socket.socket,
        recorder: FrameRecorder,
        feeds: Callable[[], dict[str, Feed]],
        note_refusal: Callable[[str, str, str], None],
        note_caller: Callable[[str, str, str], None],
        note_left: Callable[[], None],
        context: Callable[[], ssl.SSLContext] | None = None,
        limits: DoorLimits = USUAL_LIMITS,
    ) -> None:
        """`source`: where connections come from (edge.scp.ports.hand_on). `note_left`: one has ended.

        `note_caller` gets the address, the feed that is admitted, and what a caller lacks that is refused.
        """
        self._source, self._recorder, self._feeds, self._context = source, recorder, feeds, context
        self._note_refusal, self._note_caller, self._note_left = note_refusal, note_caller, note_left
        self._limits = limits
        source.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(source, READABLE)
        self._connections: set[Connection] = set()
        self._timed: set[Connection] = set()  # with a deadline
        self._busy: dict[Connection, None] = {}  # with whole frames, the one first that waits longest
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._run, name="hl7 door", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until it has closed."""
        self._thread.join()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            for key, events in self._selector.select(0.0 if self._busy else self._until_deadline()):
                if key.data is not None:
                    key.data(events)
                elif not self._accept_waiting():
                    return self._leave()
            for each in list(self._busy):
                self._guard(each, partial(self._record_next, each))
            self._close_late()

    def _leave(self) -> None:
        for each in list(self._connections):
            self._close(each)
        self._selector.close()
        self._source.close()

    def _until_deadline(self) -> float | None:
        deadlines = [each.deadline for each in self._timed if each.deadline is not None]
        return max(min(deadlines) - time.monotonic(), 0.0) if deadlines else None

    def _close_late(self) -> None:
        now = time.monotonic()
        for each in [each for each in self._timed if each.deadline is not None and each.deadline <= now]:
            if each.reader.is_pending and not each.answers:
                self._guard(each, partial(self._queue, each, each.reader.end_pending()))
            else:
                self._close(each, each.late)

    def _time(self, each: Connection, seconds: float | None, late: str = "") -> None:
        each.deadline, each.late = (None if seconds is None else time.monotonic() + seconds), late
        (self._timed.discard if seconds is None else self._timed.add)(each)

    # -- connections --------------------------------------------------------------------------------------------------

    def _accept_waiting(self) -> bool:
        """Take in what was handed on. False: the gateway closes."""
        while True:
            try:
                said, descriptors, _, _ = socket.recv_fds(self._source, MOST_CAPTION_BYTES, 1)
            except BlockingIOError:
                return True
            if not said:
                return False
            address, is_secure = json.loads(said)
            if not descriptors:
                self._note_left()
                continue
            sock = socket.socket(fileno=descriptors[0])
            feed = find_feed(self._feeds(), address)
            if feed is None:
                self._refuse(sock, address, "no [feed] names its address", is_mistaken=True)
            elif why := self._refusal(feed):
                self._refuse(sock, address, why)
            else:
                self._admit(sock, address, feed, is_secure)

    def _refusal(self, feed: Feed) -> str:
        if len(self._connections) >= self._limits.connections:
            return "there are as many HL7 connections as there may be"
        if Counter(each.feed.name for each in self._connections)[feed.name] >= self._limits.feed_connections:
            return f"feed {feed.name} has as many connections as it may have"
        return ""

    def _refuse(self, sock: socket.socket, address: str, why: str, *, is_mistaken: bool = False) -> None:
        self._note(address, why, is_mistaken)
        sock.close()
        self._note_left()

    def _note(self, address: str, why: str, is_mistaken: bool) -> None:
        """Note a refusal; one that a person has to correct is listed with the equipment that is refused, too."""
        self._note_refusal(address, "", f"HL7: {why}")
        if is_mistaken:
            self._note_caller(address, "", f"HL7: {why}")

    def _note_admitted(self, each: Connection) -> None:
        """Note now and then that a feed calls: it ends what is listed of its address."""
        now = time.monotonic()
        if now >= each.note_due:
            each.note_due = now + FEED_NOTE_SECONDS
            self._note_caller(each.address, each.feed.name, "")

    def _admit(self, sock: socket.socket, address: str, feed: Feed, is_secure: bool) -> None:
        if feed.certificate and not is_secure:
            return self._refuse(sock, address, "it must call over TLS", is_mistaken=True)
        sock.setblocking(False)
        keep_alive(sock)
        each = Connection(sock, address, feed, FrameReader(self._limits.frame_bytes), is_secure, is_secure)
        if is_secure:
            if self._context is None:
                return self._refuse(sock, address, "there is no [tls]")
            each.sock = self._context().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self._time(each, self._limits.handshake_seconds, "no TLS handshake in time")
        self._connections.add(each)
        each.advance = partial(self._advance, each)
        self._watch(each, READABLE)
        return None

    def _close(self, each: Connection, why: str = "", *, is_mistaken: bool = False) -> None:
        if each not in self._connections:
            return
        if why:
            self._note(each.address, why, is_mistaken)
        self._connections.discard(each)
        self._timed.discard(each)
        self._busy.pop(each, None)
        self._watch(each, 0)
        each.sock.close()
        self._note_left()

    # -- what they say ------------------------------------------------------------------------------------------------

    def _advance(self, each: Connection, events: int) -> None:
        if each in self._connections:
            self._guard(each, lambda: self._handle_events(each, events))

    def _guard(self, each: Connection, work: Callable[[], None]) -> None:
        """Do it; whatever one caller provokes, the door stays open."""
        try:
            work()
        except (BlockingIOError, ssl.SSLWantReadError):
            self._watch(each, READABLE if each.shakes_hands else self._wanted_events(each))
        except ssl.SSLWantWriteError:
            self._watch(each, WRITABLE)
        except ssl.SSLError as error:
            is_mistaken = each.shakes_hands and not tls.has_left(error)
            self._close(each, f"no TLS with it: {tls.explain(error)}", is_mistaken=is_mistaken)
        except FrameTooLong:
            self._close(each, f"a frame has more than {self._limits.frame_bytes} bytes")
        except OSError:
            self._close(each)
        except (EdgeError, MemoryError) as error:
            self._close(each, f"a message could not be taken, and stays with its sender: {error}")
        except Exception as error:  # noqa: BLE001
            log.error("an HL7 connection: %s", place_of(error))
            self._close(each, "an unexpected fault of ours")

    def _watch(self, each: Connection, events: int) -> None:
        """Wait for these events; for none, the connection is not read until its frames are recorded."""
        if each.watched == events:
            return
        if not each.watched:
            self._selector.register(each.fd, events, each.advance)
        elif not events:
            self._selector.unregister(each.fd)
        else:
            self._selector.modify(each.fd, events, each.advance)
        each.watched = events

    def _handle_events(self, each: Connection, events: int) -> None:
        if each.shakes_hands:
            each.sock.do_handshake()  # type: ignore[attr-defined]
            each.shakes_hands = False
            self._time(each, None)
            if why := certificate_fault(each):
                return self._close(each, why, is_mistaken=True)
        if each.answers:
            self._send(each)
        if events & READABLE or each.is_tls:
            self._receive(each)
        return None

    def _receive(self, each: Connection) -> None:
        """Receive until nothing more has come, or a whole frame waits to be recorded."""
        while not each.frames and len(each.answers) < self._limits.answer_bytes:
            data = each.sock.recv(RECEIVE_BYTES)
            if not data:
                return self._close(each)
            self._note_admitted(each)
            self._take(each, data)
            if each not in self._connections or (not each.is_tls and len(data) < RECEIVE_BYTES):
                return None
        return None

    def _take(self, each: Connection, data: bytes) -> None:
        frames = each.reader.feed(data)
        self._queue(each, frames)
        self._bound(each)

    def _queue(self, each: Connection, frames: list[bytes]) -> None:
        """Whole frames wait for their turn: each connection records one in a turn of the loop."""
        each.frames += frames
        if each.frames:
            self._busy[each] = None
            self._time(each, None)
            self._watch(each, self._wanted_events(each))
        self._set_deadline(each)

    def _record_next(self, each: Connection) -> None:
        """Record one frame and answer it. What came after the last one is received again afterwards."""
        data = each.frames.popleft()
        if not each.frames:
            del self._busy[each]
        each.answers += self._answer(each, data)
        self._send(each)
        if each.is_tls and each in self._connections and not each.frames:
            self._receive(each)  # TLS may hold bytes that no selector sees

    def _set_deadline(self, each: Connection) -> None:
        """What it is in the middle of, and how long that may take."""
        reader, limits = each.reader, self._limits
        if each.frames or each.answers:
            return
        if reader.is_pending:
            self._time(each, limits.fs_seconds)
        elif reader.is_inside:
            if each.late != _LATE_FRAME:
                each.begun = time.monotonic()
            until = each.begun + limits.frame_seconds + reader.held_bytes / RECEIVE_BYTES
            self._time(each, until - time.monotonic(), _LATE_FRAME)
        elif reader.outside_bytes:
            if not each.late.startswith("no frame"):
                self._time(each, limits.outside_seconds, "no frame came in time, but other bytes")
        else:
            self._time(each, None)

    def _bound(self, each: Connection) -> None:
        """Bytes outside frames, and those of all frames that have begun."""
        reader = each.reader
        if reader.junk_bytes and not each.is_junk_noted:
            each.is_junk_noted = True
            log.warning("feed %s sends bytes outside frames", each.feed.name)
        if reader.outside_bytes > self._limits.outside_bytes:
            return self._close(each, f"more than {self._limits.outside_bytes} bytes came outside a frame")
        if reader.held_bytes > RECEIVE_BYTES and self._held_bytes() > self._limits.all_bytes:
            largest = max(self._connections, key=lambda one: one.reader.held_bytes)
            self._close(largest, "frames take too much memory; its is the largest")
        return None

    def _held_bytes(self) -> int:
        return sum(each.reader.held_bytes for each in self._connections)

    def _answer(self, each: Connection, data: bytes) -> bytes:
        """Record a frame, then write what it is answered, framed. Raises what `FrameRecorder.record` raises."""
        feed, now = each.feed, time.time()
        batch = split_batch(data)
        self._recorder.record(data, Hl7Frame(feed.name, each.address, now, feed.authority, feed.charset, each.is_tls))
        rounds: tuple[list[bytes], list[bytes]] = ([], [])
        for one in batch.messages:
            message = parse_message(one, feed.charset)
            fault = find_fault(message, feed.authority)
            for turn, code in enumerate(acknowledgement.list_codes(message, fault)):
                number = next(self._numbers)
                rounds[turn].append(acknowledgement.write_acknowledgement(message, code, fault, now, number))
        return b"".join(frame(acknowledgement.join_batch(batch, answers)) for answers in rounds if answers)

    def _send(self, each: Connection) -> None:
        try:
            while each.answers:
                count = each.sock.send(each.answers)
                del each.answers[:count]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._time(each, self._limits.answer_seconds, "it does not read our answers")
        else:
            self._set_deadline(each)
        self._watch(each, self._wanted_events(each))

    def _wanted_events(self, each: Connection) -> int:
        """No more is received while frames wait to be recorded, or answers to be read."""
        may_receive = not each.frames and len(each.answers) < self._limits.answer_bytes
        return (READABLE if may_receive else 0) | (WRITABLE if each.answers else 0)
