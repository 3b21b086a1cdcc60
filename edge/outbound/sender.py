"""A thread that sends objects to a destination: associate, send, report to the scheduler how each ended, release.

Whether the destination takes a presentation context is decided once an association, without a round trip for each
object. A file of ours that is not what was received never arrives whole, and does not stop the others. Whatever fails
is reported to the scheduler.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import xxhash

from edge.config.sections import Destination
from edge.dicom.dialogue import HIGH, MEDIUM
from edge.dicom.pdu import Digest
from edge.dicom.scu import Association, Patience, Plan, Secure, plan_contexts
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from edge.errors import Hindered, PeerError, Unreadable, hindrance, place_of
from edge.model import ContextKey, Lease, Parameter, Priority, Reason, ReasonCode
from edge.outbound.crew import Role
from edge.outbound.job import Job
from edge.outbound.scheduler import DeliveryScheduler
from edge.transform import COMPRESSED_FALLBACKS, FALLBACKS
from edge.transform.syntaxes import DEFLATED_EXPLICIT, choose_syntax

log = logging.getLogger(__name__)

_ECHO = ContextKey(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)
#: How long an association that has nothing to do is kept for what may come.
LINGER_SECONDS = 3.0
#: Errors of reading a file that say that its bytes are gone, and not merely that we are short of something.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
#: Attempts at reading a file: a disk may fail to read once, and read the next time.
_READS = 3


class ObjectSource(Protocol):
    """What a sender needs beside its scheduler: edge.outbound."""

    def path_of(self, lease: Lease) -> str: ...

    def queued_contexts(self) -> Sequence[ContextKey]: ...

    def convert(self, job: Job, target: str) -> None: ...


# -- presentation contexts --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContextChoice:
    """In which context and transfer syntax objects go on one association, or why they cannot."""

    context: int = 0
    transfer_syntax_uid: str = ""
    refusal: Reason | None = None


#: What is proposed beside each transfer syntax, as edge.transform can make it.
FALLBACK_GROUPS = (FALLBACKS, COMPRESSED_FALLBACKS)


def choose_context(key: ContextKey, association: Association) -> ContextChoice:
    """As it is where the destination takes that, else in the best syntax that it takes and that can be made of it."""
    taken = {
        syntax: context
        for context, syntax in association.accepted.items()
        if association.proposed[context].abstract_syntax == key.sop_class_uid
    }
    syntax = choose_syntax(key.transfer_syntax_uid, taken)
    if syntax is not None:
        return ContextChoice(taken[syntax], syntax)
    return ContextChoice(refusal=_refusal(key, association, taken))


def _refusal(key: ContextKey, association: Association, taken: Collection[str]) -> Reason:
    what: dict[str, Parameter] = {"sop_class": key.sop_class_uid, "transfer_syntax": key.transfer_syntax_uid}
    if taken:
        return Reason(ReasonCode.NO_CONTEXT, {**what, "takes": list(taken)})
    for context, result in association.refused.items():
        if association.proposed[context].abstract_syntax == key.sop_class_uid:
            return Reason(ReasonCode.NO_CONTEXT, {**what, "result": result})
    return Reason(ReasonCode.NO_CONTEXT, what)


def _is_odd(job: Job, choice: ContextChoice) -> bool:
    """Has what would be sent an odd length? A deflated data set may: a zero byte follows it (PS3.5 section A.5)."""
    if choice.transfer_syntax_uid == DEFLATED_EXPLICIT or job.copy is not None:
        return False
    return bool((job.lease.size - job.lease.dataset_offset) & 1)


# -- the sender ------------------------------------------------------------------------------------------------------


class _Session:
    """One association, and what is known of it."""

    def __init__(self, association: Association, plan: Plan) -> None:
        self.association, self.contexts = association, plan.kinds
        self.answers = self.bytes = 0
        self._begun = time.monotonic()
        self._choices: dict[ContextKey, ContextChoice] = {}

    def choice(self, key: ContextKey) -> ContextChoice:
        found = self._choices.get(key)
        if found is None:
            found = self._choices[key] = choose_context(key, self.association)
        return found

    def __str__(self) -> str:
        seconds = time.monotonic() - self._begun
        refused = sum(1 for each in self._choices.values() if each.refusal)
        return f"{self.answers} objects answered, {self.bytes} bytes, {seconds:.1f} s, {refused} contexts refused"


class Sender(threading.Thread):
    """See the module's docstring; `start` it, and it ends by itself."""

    def __init__(
        self,
        scheduler: DeliveryScheduler,
        source: ObjectSource,
        destination: Destination,
        calling_ae: str,
        patience: Patience,
        role: Role = Role.WORK,
        secure: Secure | None = None,
    ) -> None:
        super().__init__(name=f"sender {destination.name}", daemon=True)
        self._scheduler, self._source, self._destination, self._calling_ae = scheduler, source, destination, calling_ae
        self._patience, self._role, self._secure = patience, role, secure
        self.alone: Job | None = None  # the one job, for Role.ALONE
        self._association: Association | None = None
        self._killed = False

    def run(self) -> None:
        try:
            if self._role is Role.PROBE:
                self._probe()
            elif self.alone is not None:
                self._send_alone(self.alone)
            else:
                self._work()
        except (Hindered, MemoryError) as error:
            if (association := self._association) is not None:
                association.kill()
            self._scheduler.note_shortage(self, f"the gateway is {hindrance.words_of(hindrance.cause_of(error))}")
        except Exception as error:  # noqa: BLE001  a fault of ours: say where, and slow down like for any failure
            log.error("%s: sender failed: %s", self._destination.name, place_of(error))
            self._scheduler.note_break(self, None, PeerError(f"internal error ({type(error).__name__}); see the log"))
        finally:
            self._scheduler.remove_sender(self)

    def _work(self) -> None:
        while waiting := self._scheduler.pending_contexts(self):
            session = self._associate(waiting)
            if session is None:
                break
            self._serve(session)

    def kill(self) -> None:
        """From another thread: end what it waits for."""
        self._killed = True
        if (association := self._association) is not None:
            association.kill()

    def count_moved_bytes(self) -> int:
        """From another thread: bytes that have come and gone on the association."""
        association = self._association
        return association.count_moved() if association is not None else 0

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
        plan = plan_contexts([*waiting, *self._source.queued_contexts()], FALLBACK_GROUPS)
        try:
            session = _Session(self._open(plan), plan)
        except PeerError as error:
            self._scheduler.note_break(self, None, error)
            return None
        self._scheduler.note_association(self, session.association.round_trip)
        return session

    def _probe(self) -> None:
        """Is the destination there? C-ECHO; then the association serves for what waits."""
        plan = plan_contexts([_ECHO, *self._source.queued_contexts()], FALLBACK_GROUPS)
        try:
            session = _Session(self._open(plan), plan)
            self._echo(session.association)
        except PeerError as error:
            self._scheduler.note_break(self, None, error)
            return
        self._scheduler.is_there(self)
        self._scheduler.note_association(self, session.association.round_trip)
        self._serve(session)
        self._work()

    def _send_alone(self, job: Job) -> None:
        """The only object of an association that has just answered C-ECHO: what then fails, fails by the object."""
        plan = plan_contexts([job.lease.context_key, _ECHO], FALLBACK_GROUPS)
        try:
            session = _Session(self._open(plan), plan)
            self._scheduler.note_association(self, session.association.round_trip)
            self._echo(session.association)
        except PeerError as error:
            self._scheduler.note_break(self, None, error)
            return
        if self._process(session, job):
            session.association.release()

    def _echo(self, association: Association) -> None:
        """Where the destination takes C-ECHO; that it accepted the association must do otherwise."""
        if (context := association.context_for(VERIFICATION)) is not None:
            association.echo(context)

    def _serve(self, session: _Session) -> None:
        """Send what this association can, until it ends or another one is due."""
        take = self._scheduler.take
        while (job := take(self, session.contexts, LINGER_SECONDS, is_first=not session.answers)) is not None:
            if not self._process(session, job):
                break
        else:
            session.association.release()
        self._association = None
        log.info("%s: association ended: %s", self._destination.name, session)

    def _process(self, session: _Session, job: Job) -> bool:
        """Send, hold or convert one job; False when the association has ended."""
        choice = session.choice(job.lease.context_key)
        if choice.transfer_syntax_uid == job.lease.context_key.transfer_syntax_uid:
            job.drop_copy()  # made for an association that took less
        if choice.refusal:
            self._scheduler.hold(job, choice.refusal)
        elif _is_odd(job, choice):
            self._scheduler.hold(job, Reason(ReasonCode.UNSENDABLE))
        elif not job.has(choice.transfer_syntax_uid):
            self._source.convert(job, choice.transfer_syntax_uid)
        elif session.answers and not session.association.is_quiet():
            # Closed in the pause between two objects: no harm was done, so a new association goes on.
            self._scheduler.put_back(job)
            session.association.abort()
            return False
        else:
            return self._send(session, job, choice.context)
        return True

    def _send(self, session: _Session, job: Job, context: int) -> bool:
        begun = time.monotonic()
        try:
            status, comment = self._store(session.association, job, context)
        except PeerError as error:
            log.debug("%s: association lost: %s", self._destination.name, error)
            self._scheduler.note_break(self, job, error, is_first=not session.answers)
        except Unreadable as error:
            self._end_unsent(session, job, gone=True, error=str(error))
        except OSError as error:
            unreadable = error.errno == errno.EIO and job.lease.attempts + 1 >= _READS
            gone = unreadable or error.errno in _GONE
            self._end_unsent(session, job, gone=gone, unreadable=error.strerror or str(error))
        except Exception as error:  # noqa: BLE001  a fault of ours: its words could quote the object, its place cannot
            log.error("sending instance %d: %s", job.lease.instance_id, place_of(error))
            self._end_unsent(session, job, gone=False, exception=type(error).__name__)
        else:
            session.answers += 1
            session.bytes += job.lease.size
            self._scheduler.note_answer(job, status, comment, time.monotonic() - begun)
            return True
        return False

    def _end_unsent(self, session: _Session, job: Job, *, gone: bool, **parameters: Parameter) -> None:
        """Our own side failed: the association may be in the midst of an object, so it ends."""
        session.association.abort()
        if gone and job.copy is None:
            self._scheduler.hold_lost(job, **parameters)
        else:
            self._scheduler.defer(job, **parameters)

    def _store(self, association: Association, job: Job, context: int) -> tuple[int, str]:
        lease, copy = job.lease, job.copy
        if copy is None:
            path, offset, size = self._source.path_of(lease), lease.dataset_offset, lease.size
            expected = Digest(xxhash.xxh3_128, lease.xxh3) if lease.xxh3 else Digest(hashlib.sha256, lease.sha256)
        else:
            path, offset, size, expected = str(copy.path), copy.dataset_offset, copy.size, None
        priority = HIGH if lease.priority is Priority.STAT else MEDIUM
        fd = hindrance.patiently(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            if os.fstat(fd).st_size != size:
                raise Unreadable("the spooled file has not the length that the catalog says")
            return association.store(
                context,
                lease.context_key.sop_class_uid,
                lease.sop_instance_uid,
                fd,
                offset,
                size - offset,
                expected,
                priority,
            )
        finally:
            os.close(fd)
