"""STOW-RS (PS3.18 section 10.5): objects go in requests of several, and each is ended by what the answer says of it.

200 is no proof of anything (edge.outbound.transport.stow_answer). A request that fails as a whole is made again with
half as many, down to one, so that an object that the server cannot take never holds up the others. A file of ours that
is not what was received is never sent.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import xxhash

from edge.config.sections import Destination
from edge.dicom.part10 import plain_head
from edge.dicom.status import meaning_of
from edge.errors import PeerError, Unavailable, Unreadable, hindrance
from edge.model import ContextKey, Outcome, Parameter, Reason, ReasonCode
from edge.network.http_client import FileSlice, HttpResult
from edge.network.multipart import PartDelimiters
from edge.network.sites import PASSED_HEADER, PRIORITY_HEADER, add_site, has_passed, read_site
from edge.network.web_service import WebConnection, WebService
from edge.outbound.crew import SenderRole
from edge.outbound.job import Job
from edge.outbound.scheduler import DeliveryScheduler
from edge.outbound.transport import ObjectSource, TransportSender
from edge.outbound.transport.stow_answer import EXISTS, Meaning, StowReport, meaning_of_answer, read_report, retry_after
from edge.outbound.transport.stow_compare import has_same_bytes
from edge.spool import digest_from

log = logging.getLogger(__name__)

#: Of one request: objects, and bytes.
BATCH_OBJECTS, REQUEST_BYTES = 32, 16 << 20
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
#: A destination that does not let us in is asked again seldom: a person must change something.
DENIED_SECONDS = 60.0


class _Everything(frozenset[ContextKey]):
    """STOW-RS negotiates nothing: any kind of object may go."""

    def __contains__(self, _: object) -> bool:
        return True


class WebDestination(WebService):
    """What all senders to one destination share: where it is, how it lets us in, and how much it takes at once."""

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self.peer_site: str | None = None  # of an Edge; empty: it is none; None: not known yet
        self._most = BATCH_OBJECTS
        self._lock = threading.Lock()

    @property
    def most(self) -> int:
        """Objects in one request."""
        return self._most

    def shrink(self, count: int) -> None:
        """A request with this number of objects failed as a whole."""
        with self._lock:
            self._most = max(1, min(self._most, count // 2))

    def grow(self, count: int) -> None:
        """One with this number succeeded."""
        with self._lock:
            if count >= self._most:
                self._most = min(BATCH_OBJECTS, self._most * 2)


class WebSession(WebConnection):
    """One connection, and the requests on it."""

    contexts = _Everything()

    def __init__(self, to: WebDestination) -> None:
        """Raises PeerError."""
        self._to, self._begun = to, time.monotonic()
        super().__init__(to)
        self.answers = self.bytes = 0

    def learn_site(self) -> None:
        """Is it an Edge, and of which site? Asked once."""
        try:
            found = self.request("OPTIONS", "/studies", {}, most=1 << 20)
            self._to.peer_site = found.headers.get("edge-site", "")
        except PeerError:
            self.close()
            raise

    def probe(self) -> None:
        """Does it answer? Most servers have QIDO-RS; whatever it says of that, it is there."""
        try:
            found = self.get("/studies?limit=1", "application/dicom+json", 1 << 20)
            _raise_of_destination(found, 1, {Meaning.LATER, Meaning.UPSTREAM, Meaning.DENIED})
        except PeerError:
            self.close()
            raise

    def store(self, parcels: Sequence[RequestPart], note_gone: Callable[[int], None] = lambda _: None) -> HttpResult:
        """One request with these objects. `note_gone` gets the place of each once the socket has all of it."""
        delimiters = PartDelimiters("application/dicom")
        heads = [delimiters.open_part("application/dicom", each.fields) + each.head for each in parcels]
        length = sum(map(len, heads)) + sum(each.count for each in parcels) + len(delimiters.closing)
        headers = {"Content-Type": delimiters.content_type, "Accept": "application/dicom+json"}

        def body() -> Iterator[bytes | FileSlice]:
            for at, each in enumerate(parcels):
                yield heads[at]
                yield FileSlice(each.fd, each.offset, each.count)
                note_gone(at)
            yield delimiters.closing

        return self.request("POST", "/studies", headers, body, length)

    def __str__(self) -> str:
        return f"{self.answers} objects answered, {self.bytes} bytes, {time.monotonic() - self._begun:.1f} s"


@dataclass(frozen=True, slots=True)
class RequestPart:
    """A part of a request: bytes of an open file, behind a head of its own."""

    fd: int
    offset: int
    count: int
    head: bytes
    fields: str = ""  # more headers of it, each with the end of its line


@dataclass(frozen=True, slots=True)
class Parcel(RequestPart):
    """An object as it is sent."""

    job: Job = field(kw_only=True)


def _head_of(job: Job) -> bytes:
    return plain_head(ContextKey(job.lease.context_key.sop_class_uid, job.transfer_syntax_uid), job.sop_instance_uid)


def _raise_of_destination(found: HttpResult, count: int, meanings: set[Meaning]) -> None:
    """Raises Unavailable where an answer concerns the destination as a whole, in one of these ways."""
    meaning = meaning_of_answer(found.status, count)
    if meaning not in meanings:
        return
    if meaning in (Meaning.LATER, Meaning.UPSTREAM):
        seconds = retry_after(found.headers.get("retry-after", ""), time.time())
        raise Unavailable(f"it takes nothing now: it answers {found.phrase}", seconds)
    if meaning is Meaning.DENIED:
        text = f"it answers {found.phrase}: compare the token or certificate with what it has, and what that may do"
        raise Unavailable(text, DENIED_SECONDS)
    raise Unavailable(f"it answers {found.phrase}: compare the url: STOW-RS must be below it", DENIED_SECONDS)


class StowSender(TransportSender[WebSession]):
    """See the module's docstring."""

    def __init__(
        self,
        scheduler: DeliveryScheduler,
        source: ObjectSource,
        destination: Destination,
        web: WebDestination,
        role: SenderRole = SenderRole.WORK,
    ) -> None:
        super().__init__(scheduler, source, destination, role)
        self._web = web

    def open_session(self, waiting: Sequence[ContextKey], *, with_probe: bool) -> WebSession:
        session = WebSession(self._web)
        if self._web.peer_site is None:
            session.learn_site()
        return session

    def process(self, session: WebSession, job: Job) -> bool:
        """Send a job, with others that wait."""
        if has_passed(job.lease.passed, self._web.peer_site or ""):
            self._scheduler.skip(job, read_site(self._web.peer_site or ""))
            return True
        if session.answers and not session.is_quiet():
            self._scheduler.put_back(job)
            session.close()
            return False
        with ExitStack() as files:
            ready = [each for each in self._gather(session, job) if self._is_ready(each)]
            parcels = [parcel for each in ready if (parcel := self._load(each, files))]
            return self._send(session, parcels) if parcels else True

    def _gather(self, session: WebSession, job: Job) -> list[Job]:
        jobs, size = [job], job.lease.size
        while not job.alone and len(jobs) < self._web.most and size < REQUEST_BYTES:
            more = self._scheduler.take(self, session.contexts, 0.0, is_first=not session.answers)
            if more is None:
                break
            if has_passed(more.lease.passed, self._web.peer_site or ""):
                self._scheduler.skip(more, read_site(self._web.peer_site or ""))
                continue
            jobs.append(more)
            size += more.lease.size
        return jobs

    def _is_ready(self, job: Job) -> bool:
        """Is the copy made that goes? False: it is made beside, or the job has ended."""
        syntax = self._source.wants_compressed(job) or job.lease.context_key.transfer_syntax_uid
        if not job.has(syntax):
            job.drop_copy()
        return job.is_ready(syntax) or self._source.prepare(job, syntax)

    def _load(self, job: Job, files: ExitStack) -> Parcel | None:
        """An object whose bytes are those that were received; None where it has been ended."""
        try:
            return self._open_file(job, files)
        except Unreadable as error:
            if job.copy is not None:
                self._scheduler.defer(job, error=str(error))  # it is made again
            else:
                self._scheduler.hold_lost(job, error=str(error))
        except OSError as error:
            reason = {"unreadable": error.strerror or str(error)}
            if error.errno in _GONE and job.copy is None:
                self._scheduler.hold_lost(job, **reason)
            else:
                self._scheduler.defer(job, **reason)
        return None

    def _open_file(self, job: Job, files: ExitStack) -> Parcel:
        lease, copy = job.lease, job.copy
        path = str(copy.path) if copy is not None else self._source.path_of(lease)
        fd = hindrance.retry_shortages(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        files.callback(os.close, fd)
        what = copy or lease
        running = xxhash.xxh3_128() if what.xxh3 else hashlib.sha256()
        is_long = os.fstat(fd).st_size == what.size
        if not is_long or digest_from(fd, what.dataset_offset, running) != (what.xxh3 or what.sha256):
            raise Unreadable("the spooled file's bytes are not those that were received")
        return Parcel(fd, what.dataset_offset, job.data_set_bytes, _head_of(job), self._fields_of(job), job=job)

    def _fields_of(self, job: Job) -> str:
        """What one Edge says to another of an object."""
        if not self._web.peer_site or not self._source.site:
            return ""
        passed, priority = add_site(job.lease.passed, self._source.site), job.lease.priority.name.lower()
        return f"{PASSED_HEADER}: {passed}\r\n{PRIORITY_HEADER}: {priority}\r\n"

    # -- one request --------------------------------------------------------------------------------------------------

    def _send(self, session: WebSession, parcels: list[Parcel]) -> bool:
        begun = time.monotonic()
        try:
            found = session.store(parcels, lambda at: self._scheduler.note_on_its_way(parcels[at].job))
            _raise_of_destination(found, len(parcels), {Meaning.LATER, Meaning.DENIED, Meaning.WRONG})
        except Unavailable as error:
            self._scheduler.note_break(self, None, error)  # what it carried goes back with it
            session.close()
            return False
        except PeerError as error:
            session.close()
            self._note_break(session, parcels, error)
            return False
        self._settle(session, parcels, found, time.monotonic() - begun)
        return True

    def _note_break(self, session: WebSession, parcels: list[Parcel], error: PeerError) -> None:
        """Is it an object? With one alone the scheduler decides; of several half as many go next time."""
        if len(parcels) == 1:
            self._scheduler.note_break(self, parcels[0].job, error, is_first=not session.answers)
            return
        log.info("%s: a request with %d objects failed: %s", self._destination.name, len(parcels), error)
        self._put_back(parcels)

    def _put_back(self, parcels: list[Parcel]) -> None:
        self._web.shrink(len(parcels))
        for each in parcels:
            self._scheduler.put_back(each.job)

    def _settle(self, session: WebSession, parcels: list[Parcel], found: HttpResult, seconds: float) -> None:
        meaning = meaning_of_answer(found.status, len(parcels))
        if meaning is Meaning.SPLIT:
            self._put_back(parcels)
        elif meaning is Meaning.READ:
            self._web.grow(len(parcels))
            report = read_report(found.headers.get("content-type", ""), found.body)
            for each in parcels:
                self._settle_one(session, each, report, found, seconds / len(parcels), seconds)
            session.answers += len(parcels)
            session.bytes += sum(each.count for each in parcels)
        else:
            reason: dict[str, Parameter] = {"http": found.status}
            if meaning is Meaning.REFUSED:
                self._scheduler.hold(parcels[0].job, Reason(ReasonCode.REFUSED, reason))
            else:
                refusal = f"it answers {found.phrase}" if meaning is Meaning.UPSTREAM else ""
                self._scheduler.fail(parcels[0].job, reason, refusal)
            session.answers += 1

    def _settle_one(
        self,
        session: WebSession,
        parcel: Parcel,
        report: StowReport,
        found: HttpResult,
        seconds: float,
        waited: float,
    ) -> None:
        job = parcel.job
        uid = job.sop_instance_uid
        if uid in report.stored:
            self._scheduler.note_answer(job, report.stored[uid], "", seconds, waited)
        elif report.failed.get(uid) in EXISTS:
            self._compare(session, parcel, seconds)
        elif uid in report.failed and meaning_of(report.failed[uid]).outcome is Outcome.SENT:
            why = f"the destination names it as failed, with Failure Reason {report.failed[uid]:04X}"
            self._scheduler.fail(job, {"error": why})  # of a C-STORE it would be a success or a warning
        elif uid in report.failed:
            self._scheduler.note_answer(job, report.failed[uid], "", seconds, waited)
        else:
            self._scheduler.fail(job, {"http": found.status, "unnamed": 1})

    def _compare(self, session: WebSession, parcel: Parcel, seconds: float) -> None:
        """Settle an object whose UID the destination has already: is it the same, or another one?"""
        job = parcel.job
        try:
            is_same = has_same_bytes(session, parcel.fd, parcel.offset, job)
        except (PeerError, Unreadable) as error:
            self._scheduler.fail(job, {"error": f"it has one under this UID, and does not show it: {error}"})
            return
        if is_same:
            self._scheduler.note_answer(job, 0x0111, "", seconds)
        else:
            self._scheduler.hold(job, Reason(ReasonCode.REFUSED, {"other_bytes": 1}))
