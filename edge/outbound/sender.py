"""A thread that carries objects to a destination: associate, send, tell the dispatch how each ended, release.

A kind of objects that the destination refuses is decided once an association, without a round trip for each. A file
of ours that is not what was received never arrives whole, and does not stop the others. Whatever fails, the dispatch
is told.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge import hindrance
from edge.config.sections import Destination
from edge.dicom.acse import CONTEXT_RESULTS
from edge.dicom.scu import HIGH, MEDIUM, Association, Patience, Plan, Secure, plan_contexts
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION, name_of
from edge.errors import Hindered, PeerError, Unreadable, place_of
from edge.model import ContextKey, Lease, Priority, ReasonCode
from edge.outbound.crew import Role
from edge.outbound.job import Job
from edge.outbound.scheduler import DeliveryScheduler
from edge.transform import COMPRESSED_FALLBACKS, FALLBACKS, possible
from edge.transform.syntaxes import DEFLATED

log = logging.getLogger(__name__)

_ECHO = ContextKey(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)
#: An association that has nothing to do is kept so long for what may come.
LINGER_SECONDS = 3.0
#: Errors of reading a file that say that its bytes are gone, and not merely that we are short of something.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
#: A disk may fail to read once, and read the next time: so many tries are made of it.
_READS = 3


class ObjectSource(Protocol):
    """Where a sender finds what the dispatch does not have: edge.outbound."""

    def path_of(self, work: Lease) -> Path: ...

    def queued_kinds(self) -> Sequence[ContextKey]: ...

    def convert(self, job: Job, target: str) -> None: ...


# -- how a kind travels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContextChoice:
    """How objects of one kind travel on one association: in which context and syntax, or why they cannot."""

    context: int = 0
    transfer_syntax_uid: str = ""
    refusal: str = ""


#: What is proposed beside each kind, as edge.transform can make it.
FALLBACK_GROUPS = (FALLBACKS, COMPRESSED_FALLBACKS)


def choose_context(kind: ContextKey, association: Association) -> ContextChoice:
    """As it is where the destination takes that, else in the best syntax that it takes and that can be made of it."""
    taken = {
        syntax: context
        for context, syntax in association.accepted.items()
        if association.proposed[context].abstract_syntax == kind.sop_class_uid
    }
    for syntax in (kind.transfer_syntax_uid, *FALLBACKS, *COMPRESSED_FALLBACKS):
        if syntax in taken and possible(kind.transfer_syntax_uid, syntax) is None:
            return ContextChoice(taken[syntax], syntax)
    return ContextChoice(refusal=_refusal(kind, association, taken))


def _refusal(kind: ContextKey, association: Association, taken: Collection[str]) -> str:
    what = f"{name_of(kind.sop_class_uid)} in {name_of(kind.transfer_syntax_uid)}"
    if not taken:
        results = [result for c, result in association.refused.items() if _proposed(association, c, kind)]
        why = CONTEXT_RESULTS.get(results[0], f"result {results[0]}") if results else "no answer"
        return f"the destination takes no {what} ({why}), nor any other transfer syntax that Edge could convert it to"
    takes = ", ".join(name_of(syntax) for syntax in taken)
    why_not = next(filter(None, (possible(kind.transfer_syntax_uid, syntax) for syntax in taken)), "")
    return f"the destination refuses {what}; it takes {takes}, but Edge cannot convert: {why_not}"


def _proposed(association: Association, context: int, kind: ContextKey) -> bool:
    return association.proposed[context].abstract_syntax == kind.sop_class_uid


#: PS3.5 section 7.1.1, PS3.8 annex E.2. DCMTK aborts the association on it ("Odd Fragment Length", dimse.cc).
ODD = (
    "its data set has an odd number of bytes, which DICOM does not allow and no receiver need take: have its sender"
    " corrected and send it again"
)


def _is_odd(job: Job, way: ContextChoice) -> bool:
    """Has what would be sent an odd length? A deflated data set may: a zero byte follows it (PS3.5 section A.5)."""
    if way.transfer_syntax_uid == DEFLATED or job.copy is not None:
        return False
    return bool((job.work.size - job.work.dataset_offset) & 1)


# -- the sender ------------------------------------------------------------------------------------------------------


class _Session:
    """One association, and what is known of it."""

    def __init__(self, association: Association, plan: Plan) -> None:
        self.association, self.kinds = association, plan.kinds
        self.answers = self.bytes = 0
        self._begun = time.monotonic()
        self._ways: dict[ContextKey, ContextChoice] = {}

    def way(self, kind: ContextKey) -> ContextChoice:
        way = self._ways.get(kind)
        if way is None:
            way = self._ways[kind] = choose_context(kind, self.association)
        return way

    def __str__(self) -> str:
        seconds = time.monotonic() - self._begun
        refused = sum(1 for way in self._ways.values() if way.refusal)
        return f"{self.answers} objects answered, {self.bytes} bytes, {seconds:.1f} s, {refused} kinds refused"


class Sender(threading.Thread):
    """See the module's docstring; `start` it, and it ends by itself."""

    def __init__(
        self,
        dispatch: DeliveryScheduler,
        depot: ObjectSource,
        destination: Destination,
        calling_ae: str,
        patience: Patience,
        role: Role = Role.WORK,
        secure: Secure | None = None,
    ) -> None:
        super().__init__(name=f"to {destination.name}", daemon=True)
        self._dispatch, self._depot, self._destination, self._calling_ae = dispatch, depot, destination, calling_ae
        self._patience, self._role, self._secure = patience, role, secure
        self.alone: Job | None = None  # what it carries, for Role.ALONE
        self._association: Association | None = None
        self._killed = False

    def run(self) -> None:
        try:
            if self._role is Role.PROBE:
                self._probe()
            elif self.alone is not None:
                self._carry_alone(self.alone)
            else:
                self._work()
        except (Hindered, MemoryError) as error:
            if (association := self._association) is not None:
                association.kill()
            self._dispatch.hindered(self, f"the gateway is {hindrance.words_of(hindrance.cause_of(error))}")
        except Exception as error:  # noqa: BLE001  a fault of ours: say where, and slow down like for any failure
            log.error("%s: sender failed: %s", self._destination.name, place_of(error))
            self._dispatch.broke(self, None, PeerError(f"internal error ({type(error).__name__}); see the log"))
        finally:
            self._dispatch.left(self)

    def _work(self) -> None:
        while waiting := self._dispatch.kinds(self):
            session = self._associate(waiting)
            if session is None:
                break
            self._serve(session)

    def kill(self) -> None:
        """From another thread: end whatever it waits for."""
        self._killed = True
        if (association := self._association) is not None:
            association.kill()

    def moved(self) -> int:
        """From another thread: bytes that have come and gone on the association."""
        association = self._association
        return association.moved() if association is not None else 0

    def _open(self, plan: Plan) -> Association:
        to = self._destination
        self._association = Association.open(
            to.host,
            to.port,
            self._calling_ae,
            to.ae_title,
            plan.contexts,
            patience=self._patience,
            secure=self._secure,
        )
        if self._killed:
            self._association.kill()
        return self._association

    def _associate(self, waiting: Sequence[ContextKey]) -> _Session | None:
        """An association for what waits; None when there is none to be had. No work is taken before it is open."""
        plan = plan_contexts([*waiting, *self._depot.queued_kinds()], FALLBACK_GROUPS)
        try:
            session = _Session(self._open(plan), plan)
        except PeerError as error:
            self._dispatch.broke(self, None, error)
            return None
        self._dispatch.opened(self, session.association.round_trip)
        return session

    def _probe(self) -> None:
        """Is the destination there? C-ECHO; then the association serves for what waits."""
        plan = plan_contexts([_ECHO, *self._depot.queued_kinds()], FALLBACK_GROUPS)
        try:
            session = _Session(self._open(plan), plan)
            self._echo(session.association)
        except PeerError as error:
            self._dispatch.broke(self, None, error)
            return
        self._dispatch.is_there(self)
        self._serve(session)
        self._work()

    def _carry_alone(self, job: Job) -> None:
        """The only object of an association that has just answered C-ECHO: what then fails, fails by the object."""
        plan = plan_contexts([job.work.kind, _ECHO], FALLBACK_GROUPS)
        try:
            session = _Session(self._open(plan), plan)
            self._dispatch.opened(self, session.association.round_trip)
            self._echo(session.association)
        except PeerError as error:
            self._dispatch.broke(self, None, error)
            return
        if self._carry(session, job):
            session.association.release()

    def _echo(self, association: Association) -> None:
        """Where the destination takes C-ECHO; that it accepted the association must do otherwise."""
        if (context := association.context_for(VERIFICATION)) is not None:
            association.echo(context)

    def _serve(self, session: _Session) -> None:
        """Carry what this association can, until it ends or another one is due."""
        while (job := self._dispatch.take(self, session.kinds, LINGER_SECONDS)) is not None:
            if not self._carry(session, job):
                break
        else:
            session.association.release()
        self._association = None
        log.info("%s: association ended: %s", self._destination.name, session)

    def _carry(self, session: _Session, job: Job) -> bool:
        """Do what is to be done with one job; False when the association is over."""
        way = session.way(job.work.kind)
        if way.transfer_syntax_uid == job.work.kind.transfer_syntax_uid:
            job.drop_copy()  # made for an association that took less
        if way.refusal:
            self._dispatch.hold(job, way.refusal)
        elif _is_odd(job, way):
            self._dispatch.hold(job, ODD, ReasonCode.UNSENDABLE)
        elif not job.has(way.transfer_syntax_uid):
            self._depot.convert(job, way.transfer_syntax_uid)
        elif session.answers and not session.association.is_quiet():
            # Closed in the pause between two objects: no harm was done, so a new association goes on.
            self._dispatch.put_back(job)
            session.association.abort()
            return False
        else:
            return self._send(session, job, way.context)
        return True

    def _send(self, session: _Session, job: Job, context: int) -> bool:
        begun = time.monotonic()
        try:
            status, comment = self._store(session.association, job, context)
        except PeerError as error:
            log.debug("%s: association lost: %s", self._destination.name, error)
            self._dispatch.broke(self, job, error, is_first=not session.answers)
        except Unreadable as error:
            self._unsent(session, job, str(error), gone=True)
        except OSError as error:
            reason = f"the spooled file cannot be read ({error.strerror or error})"
            unreadable = error.errno == errno.EIO and job.work.attempts + 1 >= _READS
            self._unsent(session, job, reason, gone=unreadable or error.errno in _GONE)
        except Exception as error:  # noqa: BLE001  a fault of ours: its words could quote the object, its place cannot
            log.error("sending instance %d: %s", job.work.instance_id, place_of(error))
            self._unsent(session, job, f"internal error ({type(error).__name__}); see the log", gone=False)
        else:
            session.answers += 1
            session.bytes += job.work.size
            self._dispatch.answered(job, status, comment, time.monotonic() - begun)
            return True
        return False

    def _unsent(self, session: _Session, job: Job, reason: str, *, gone: bool) -> None:
        """Our own side failed: the association may be in the midst of an object, so it ends."""
        session.association.abort()
        if gone and job.copy is None:
            self._dispatch.lost(job, reason)
        else:
            self._dispatch.defer(job, reason)

    def _store(self, association: Association, job: Job, context: int) -> tuple[int, str]:
        work, copy = job.work, job.copy
        if copy is None:
            path, offset, size, digest = self._depot.path_of(work), work.dataset_offset, work.size, work.sha256
        else:
            path, offset, size, digest = copy.path, copy.dataset_offset, copy.size, None
        priority = HIGH if work.priority is Priority.STAT else MEDIUM
        fd = hindrance.patiently(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            if os.fstat(fd).st_size != size:
                raise Unreadable("the spooled file has not the length that the catalog says")
            return association.store(
                context, work.kind.sop_class_uid, work.sop_instance_uid, fd, offset, size - offset, digest, priority
            )
        finally:
            os.close(fd)
