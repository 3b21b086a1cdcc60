"""Serves the questions of all doors, in turns: each pull is a place in one queue, and each turn is short.

A question is its own first pull. One thread reads the sockets, a few answer. So a thousand callers who ask for
everything take a thousand cursors, a few threads, and a share each of the time; nobody's question waits for the end of
another's. What is not pulled is not made.
"""

from __future__ import annotations

import logging
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from edge.errors import EdgeError, Hindered, Unreadable, place_of
from edge.network.frames import receive_frame, send_frame
from edge.query.asking import PULL, AnswerBatch, AskedQuery
from edge.query.levels import OUT_OF_RESOURCES, UNABLE_TO_PROCESS, QueryRefused

log = logging.getLogger(__name__)

#: Questions that may be open at a time, and threads that answer them.
MOST_OPEN, ANSWERERS = 2000, 2
#: A turn: answers, their bytes (what a socket holds, for a door that reads later), and seconds.
TURN_ANSWERS, TURN_BYTES, ANSWER_TURN_SECONDS = 64, 64 << 10, 0.05
FRAME_SECONDS = 5.0

#: (question, identifier) -> answers; None where time passes without one; an AnswerBatch with the final status ends it.
Open = Callable[[AskedQuery, bytes], Iterator["bytes | AnswerBatch | None"]]


@dataclass(slots=True)
class _Question:
    """One connection: what it asked, and how far that is answered."""

    sock: socket.socket
    answers: Iterator[bytes | AnswerBatch | None] | None = None
    pending: int = 0xFF00


class AnswerServer:
    """See the module's docstring."""

    def __init__(self, listener: socket.socket, open_answer: Open) -> None:
        """`listener`: listens already."""
        self._listener, self._open = listener, open_answer
        self._turns: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._again: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.open_count = 0
        names = [("questions", self._read), *[(f"answers {number + 1}", self._answer) for number in range(ANSWERERS)]]
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in names]

    def start(self) -> None:
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake()
        for _ in self._threads[1:]:
            self._turns.put(None)
        for thread in self._threads:
            thread.join(5.0)
        for waiting in (self._turns, self._again):
            while not waiting.empty():
                if (question := waiting.get()) is not None:
                    self._close(question)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Question):
                self._close(key.data)
        self._selector.close()
        self._listener.close()
        self._waker.close()
        self._woken.close()

    # -- the reading thread -------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                else:
                    self._selector.unregister(key.fileobj)
                    self._turns.put(key.data)
            while not self._again.empty():
                question = self._again.get()
                self._selector.register(question.sock, selectors.EVENT_READ, question)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.settimeout(FRAME_SECONDS)
        with self._lock:
            self.open_count += 1
        self._selector.register(sock, selectors.EVENT_READ, _Question(sock))

    def _wake(self) -> None:
        self._waker.send(b"\0")

    # -- those that answer --------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        while (question := self._turns.get()) is not None:
            if self._take_turn(question):
                self._again.put(question)
                self._wake()
            else:
                self._close(question)

    def _take_turn(self, question: _Question) -> bool:
        """One frame of a door, and what it asks for; False: it is over."""
        try:
            frame = receive_frame(question.sock)
            if question.answers is None:
                asked, identifier = AskedQuery.decode(frame)
                question.answers = self._begin(asked, identifier)
            elif frame != PULL:
                return False
            batch = next_batch(question.answers, question.pending, lambda: not self._turns.empty())
            question.pending = batch.pending
            send_frame(question.sock, batch.encode())
            return batch.status is None
        except (OSError, EOFError):
            return False
        except Exception as error:  # noqa: BLE001 - one odd question must not end the others
            log.error("a question cannot be answered: %s", place_of(error))
            return False

    def _begin(self, asked: AskedQuery, identifier: bytes) -> Iterator[bytes | AnswerBatch | None]:
        if self.open_count > MOST_OPEN:
            return iter([AnswerBatch(status=OUT_OF_RESOURCES, comment="too many queries at once")])
        return self._open(asked, identifier)

    def _close(self, question: _Question) -> None:
        with self._lock:
            self.open_count -= 1
        question.sock.close()
        close = getattr(question.answers, "close", None)
        if close is not None:
            close()


def next_batch(
    answers: Iterator[bytes | AnswerBatch | None], pending: int, others_wait: Callable[[], bool] = lambda: False
) -> AnswerBatch:
    """One turn. What goes wrong becomes the final status. `pending`: of the answers, as the turn before had it.

    `others_wait`: do others wait for their turn? Then it ends where time passes without an answer.
    """
    found: list[bytes] = []
    size, end = 0, time.monotonic() + ANSWER_TURN_SECONDS
    try:
        for each in answers:
            if isinstance(each, AnswerBatch):
                pending = each.pending
                if each.status is not None:
                    return replace(each, answers=found)
            elif each is not None:
                found.append(each)
                size += len(each)
            elif others_wait():
                break
            if len(found) >= TURN_ANSWERS or size >= TURN_BYTES or time.monotonic() >= end:
                break
    except QueryRefused as error:
        return AnswerBatch(found, error.status, error.comment)
    except Unreadable:
        return AnswerBatch(found, UNABLE_TO_PROCESS, "the identifier cannot be read")
    except (Hindered, MemoryError):
        return AnswerBatch(found, OUT_OF_RESOURCES, "the gateway is short of something", pending)
    except EdgeError as error:
        log.error("a query cannot be answered: %s", error)
        return AnswerBatch(found, UNABLE_TO_PROCESS, "the catalog cannot be read", pending)
    return AnswerBatch(found, pending=pending)
