"""Senders of objects, for every transport: open a connection, send, report how each object ended, close.

A sender is a thread. One module a transport: `dimse` (C-STORE on an association), `stow` (STOW-RS over HTTP). Each says
how to open, probe and close a connection (`Session`) and how to send what was taken from the scheduler; circuit, tuner,
leases and settlement are the same for all. Whatever fails is reported to the scheduler.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from typing import Generic, Protocol, TypeVar

from edge.config.sections import Destination
from edge.errors import Hindered, PeerError, hindrance, place_of
from edge.model import ContextKey, Lease
from edge.outbound.crew import SenderRole
from edge.outbound.job import Job
from edge.outbound.scheduler import DeliveryScheduler

log = logging.getLogger(__name__)

#: How long a connection that has nothing to do is kept for what may come.
_LINGER_SECONDS = 3.0


class ObjectSource(Protocol):
    """What a sender needs beside its scheduler: edge.outbound."""

    def path_of(self, lease: Lease) -> str: ...

    def queued_contexts(self) -> Sequence[ContextKey]: ...

    def prepare(self, job: Job, transfer_syntax_uid: str) -> bool: ...

    def wants_compressed(self, job: Job) -> str: ...

    @property
    def site(self) -> str: ...

    @property
    def fallbacks(self) -> Sequence[Sequence[str]]: ...


class Session(Protocol):
    """An open connection to the destination. What fails raises PeerError."""

    answers: int  # objects that were answered on it

    @property
    def contexts(self) -> Collection[ContextKey]:
        """What it may carry."""

    @property
    def round_trip(self) -> float:
        """The round trip of its line, in seconds."""

    def probe(self) -> None:
        """Ask whether the destination answers, without an object."""

    def close(self) -> None:
        """Close in order."""

    def kill(self) -> None:
        """End, from another thread, what waits for the connection."""

    def count_moved(self) -> int:
        """Count the bytes that have come and gone; called from another thread."""


S = TypeVar("S", bound=Session)


class TransportSender(threading.Thread, Generic[S]):
    """See the module's docstring; `start` it, and it ends by itself."""

    def __init__(
        self,
        scheduler: DeliveryScheduler,
        source: ObjectSource,
        destination: Destination,
        role: SenderRole = SenderRole.WORK,
    ) -> None:
        super().__init__(name=f"sender {destination.name}", daemon=True)
        self._scheduler, self._source, self._destination, self._role = scheduler, source, destination, role
        self.alone: Job | None = None  # the one job, for SenderRole.ALONE
        self._session: S | None = None
        self._killed = False

    # -- what a transport says ----------------------------------------------------------------------------------------

    def open_session(self, waiting: Sequence[ContextKey], *, with_probe: bool) -> S:
        """Open a connection for objects of these kinds. Raises PeerError."""
        raise NotImplementedError

    def process(self, session: S, job: Job) -> bool:
        """Send, hold or convert one job, perhaps with others; False when the connection has ended."""
        raise NotImplementedError

    # -- for all of them ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            if self._role is SenderRole.PROBE:
                self._probe()
            elif self.alone is not None:
                self._send_alone(self.alone)
            else:
                self._work()
        except (Hindered, MemoryError) as error:
            if (session := self._session) is not None:
                session.kill()
            self._scheduler.note_shortage(self, f"the gateway is {hindrance.words_of(hindrance.cause_of(error))}")
        except Exception as error:  # noqa: BLE001  a fault of ours: say where, and slow down like for any failure
            log.error("%s: sender failed: %s", self._destination.name, place_of(error))
            self._scheduler.note_break(self, None, PeerError(f"internal error ({type(error).__name__}); see the log"))
        finally:
            self._scheduler.remove_sender(self)

    def kill(self) -> None:
        """End, from another thread, what the sender waits for."""
        self._killed = True
        if (session := self._session) is not None:
            session.kill()

    def count_moved_bytes(self) -> int:
        """Count the bytes that have come and gone on the connection; called from another thread."""
        session = self._session
        return session.count_moved() if session is not None else 0

    def _open(self, waiting: Sequence[ContextKey], *, with_probe: bool = False) -> S:
        self._session = session = self.open_session(waiting, with_probe=with_probe)
        if self._killed:
            session.kill()
        return session

    def _work(self) -> None:
        while waiting := self._scheduler.pending_contexts(self):
            try:  # no work is taken before it is open
                session = self._open([*waiting, *self._source.queued_contexts()])
            except PeerError as error:
                self._scheduler.note_break(self, None, error)
                break
            self._scheduler.note_association(self, session.round_trip)
            self._serve(session)

    def _probe(self) -> None:
        """Is the destination there? Then the connection serves for what waits."""
        try:
            session = self._open(self._source.queued_contexts(), with_probe=True)
            session.probe()
        except PeerError as error:
            self._scheduler.note_break(self, None, error)
            return
        self._scheduler.is_there(self)
        self._scheduler.note_association(self, session.round_trip)
        self._serve(session)
        self._work()

    def _send_alone(self, job: Job) -> None:
        """The only object of a connection that was just probed: what then fails, fails by the object."""
        try:
            session = self._open([job.lease.context_key], with_probe=True)
            self._scheduler.note_association(self, session.round_trip)
            session.probe()
        except PeerError as error:
            self._scheduler.note_break(self, None, error)
            return
        if self.process(session, job):
            session.close()

    def _serve(self, session: S) -> None:
        """Send what this connection can, until it ends or another one is due."""
        take = self._scheduler.take
        while (job := take(self, session.contexts, _LINGER_SECONDS, is_first=not session.answers)) is not None:
            if not self.process(session, job):
                break
        else:
            session.close()
        self._session = None
        log.info("%s: connection ended: %s", self._destination.name, session)
