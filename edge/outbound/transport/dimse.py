"""C-STORE on an association (PS3.7 section 9.1.1).

Whether the destination takes a presentation context is decided once an association, without a round trip for each
object. A file of ours that is not what was received never arrives whole, and does not stop the others.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import xxhash

from edge.config.sections import Destination
from edge.dicom.dialogue import HIGH, MEDIUM
from edge.dicom.part10 import EDGE_UID
from edge.dicom.scu import Association, Patience, Plan, Secure, plan_contexts
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from edge.dicom.wire import Digest
from edge.errors import PeerError, Unreadable, hindrance, place_of
from edge.model import ContextKey, Parameter, Priority, Reason, ReasonCode
from edge.network.sites import add_site, has_passed, read_site, write_site
from edge.outbound.crew import SenderRole
from edge.outbound.job import Job
from edge.outbound.scheduler import DeliveryScheduler
from edge.outbound.transport import ObjectSource, TransportSender
from edge.transform import COMPRESSED_FALLBACKS, FALLBACKS, possible
from edge.transform.syntaxes import DEFLATED_EXPLICIT

log = logging.getLogger(__name__)

_ECHO = ContextKey(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)
#: Errors of reading a file that say that its bytes are gone, and not merely that we are short of something.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
#: Attempts at reading a file: a disk may fail to read once, and read the next time.
_READS = 3


# -- presentation contexts --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContextChoice:
    """The context and transfer syntax for objects on one association, or why they cannot be sent."""

    context: int = 0
    transfer_syntax_uid: str = ""
    refusal: Reason | None = None


def fallback_groups(compress: str = "") -> tuple[tuple[str, ...], ...]:
    """What is proposed beside each transfer syntax, as edge.transform can make it; one that is wanted for itself."""
    rest = tuple(each for each in COMPRESSED_FALLBACKS if each != compress)
    return (FALLBACKS, (compress,), rest) if compress else (FALLBACKS, COMPRESSED_FALLBACKS)


def choose_context(key: ContextKey, association: Association, compressed: str = "") -> ContextChoice:
    """Choose the object's own syntax where the destination takes it, else the best that it takes and that can be made.

    `compressed`: the transfer syntax that is preferred to its own.
    """
    taken = {
        syntax: context
        for context, syntax in association.accepted.items()
        if association.proposed[context].abstract_syntax == key.sop_class_uid
    }
    preferred = (compressed,) if compressed else ()
    for syntax in (*preferred, key.transfer_syntax_uid, *FALLBACKS, *COMPRESSED_FALLBACKS):
        if syntax in taken and possible(key.transfer_syntax_uid, syntax) is None:
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
    is_converted = job.copy is not None and choice.transfer_syntax_uid != job.lease.context_key.transfer_syntax_uid
    if is_converted or choice.transfer_syntax_uid == DEFLATED_EXPLICIT:
        return False
    return bool(job.data_set_bytes & 1)


# -- the sender ------------------------------------------------------------------------------------------------------


class AssociationSession:
    """One association, and what is known of it."""

    def __init__(self, association: Association, plan: Plan) -> None:
        self.association, self.contexts = association, plan.kinds
        self.round_trip = association.round_trip
        self.kill, self.count_moved, self.close = association.kill, association.count_moved, association.release
        self.peer_site = association.extended.get(EDGE_UID, b"").decode("latin-1")  # empty: it is no Edge
        self.answers = self.bytes = 0
        self._begun = time.monotonic()
        self._choices: dict[tuple[ContextKey, str], ContextChoice] = {}

    def probe(self) -> None:
        """C-ECHO where the destination takes it; that it accepted the association must do otherwise."""
        if (context := self.association.context_for(VERIFICATION)) is not None:
            self.association.echo(context)

    def choice(self, key: ContextKey, compressed: str) -> ContextChoice:
        found = self._choices.get((key, compressed))
        if found is None:
            found = self._choices[key, compressed] = choose_context(key, self.association, compressed)
        return found

    def __str__(self) -> str:
        seconds = time.monotonic() - self._begun
        refused = sum(1 for each in self._choices.values() if each.refusal)
        return f"{self.answers} objects answered, {self.bytes} bytes, {seconds:.1f} s, {refused} contexts refused"


class Sender(TransportSender[AssociationSession]):
    """See the module's docstring."""

    def __init__(
        self,
        scheduler: DeliveryScheduler,
        source: ObjectSource,
        destination: Destination,
        calling_ae: str,
        patience: Patience,
        role: SenderRole = SenderRole.WORK,
        secure: Secure | None = None,
    ) -> None:
        super().__init__(scheduler, source, destination, role)
        self._calling_ae, self._patience, self._secure = calling_ae, patience, secure

    def open_session(self, waiting: Sequence[ContextKey], *, with_probe: bool) -> AssociationSession:
        kinds = [*waiting, _ECHO] if self.alone else [_ECHO, *waiting] if with_probe else waiting
        plan, to = plan_contexts(kinds, self._source.fallbacks), self._destination
        association = Association.open(
            to.host,
            to.port,
            self._calling_ae,
            to.ae_title,
            plan.contexts,
            patience=self._patience,
            secure=self._secure,
            extended={EDGE_UID: write_site(self._source.site).encode()} if self._source.site else None,
        )
        return AssociationSession(association, plan)

    def process(self, session: AssociationSession, job: Job) -> bool:
        """Send, hold or prepare one job; False when the association has ended."""
        if has_passed(job.lease.passed, session.peer_site):
            self._scheduler.skip(job, read_site(session.peer_site))
            return True
        choice = session.choice(job.lease.context_key, self._source.wants_compressed(job))
        if not job.has(choice.transfer_syntax_uid):
            job.drop_copy()  # made for an association that took something else
        if choice.refusal:
            self._scheduler.refuse_context(job, choice.refusal)
        elif not job.is_ready(choice.transfer_syntax_uid) and not self._source.prepare(job, choice.transfer_syntax_uid):
            return True  # it is being prepared beside, or has ended
        elif _is_odd(job, choice):
            self._scheduler.hold(job, Reason(ReasonCode.UNSENDABLE))
        elif session.answers and not session.association.is_quiet():
            # Closed in the pause between two objects: no harm was done, so a new association goes on.
            self._scheduler.put_back(job)
            session.association.abort()
            return False
        else:
            return self._send(session, job, choice.context)
        return True

    def _send(self, session: AssociationSession, job: Job, context: int) -> bool:
        begun = time.monotonic()
        try:
            status, comment = self._store(session, job, context)
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
            session.bytes += job.data_set_bytes
            self._scheduler.note_answer(job, status, comment, time.monotonic() - begun)
            return True
        return False

    def _end_unsent(self, session: AssociationSession, job: Job, *, gone: bool, **parameters: Parameter) -> None:
        """Our own side failed: the association may be in the middle of an object, so it ends."""
        session.association.abort()
        if gone and job.copy is None:
            self._scheduler.hold_lost(job, **parameters)
        else:
            self._scheduler.defer(job, **parameters)

    def _store(self, session: AssociationSession, job: Job, context: int) -> tuple[int, str]:
        lease, copy = job.lease, job.copy
        if copy is None:
            path, offset, size = self._source.path_of(lease), lease.dataset_offset, lease.size
            expected = Digest(xxhash.xxh3_128, lease.xxh3) if lease.xxh3 else Digest(hashlib.sha256, lease.sha256)
        else:
            path, offset, size = str(copy.path), copy.dataset_offset, copy.size
            expected = Digest(xxhash.xxh3_128, copy.xxh3)
        priority = HIGH if lease.priority is Priority.STAT else MEDIUM
        fd = hindrance.retry_shortages(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            if os.fstat(fd).st_size != size:
                raise Unreadable("the spooled file has not the length that the catalog says")
            return session.association.store(
                context,
                lease.context_key.sop_class_uid,
                job.sop_instance_uid,
                fd,
                offset,
                size - offset,
                expected,
                priority,
                passed=add_site(lease.passed, self._source.site) if session.peer_site else "",
            )
        finally:
            os.close(fd)
