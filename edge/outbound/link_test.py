"""The test of a link: round trip, what is negotiated, and the real throughput with objects that are made for it.

The directive measures a site by "a CT in 60 seconds". A CT counts as CT_IMAGES images of 512 KiB here. The test objects
are secondary captures of a patient who does not exist; they say so in every field, their pixels cannot be compressed,
and they stay in the archive until somebody deletes them: they are sent only where a person asks for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

from edge.config.sections import Config, Destination
from edge.dicom.commitment_data import new_transaction_uid as new_uid
from edge.dicom.elements import EXPLICIT, write_head
from edge.dicom.items import encode_items, item
from edge.dicom.part10 import plain_head
from edge.dicom.scu import Association, plan_contexts
from edge.dicom.status import meaning_of
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from edge.errors import PeerError
from edge.model import ContextKey, Outcome
from edge.network import tls
from edge.outbound.echo import Echo, ask
from edge.outbound.transport.stow import RequestPart, WebDestination, WebSession
from edge.outbound.transport.stow_answer import read_report

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT_IMAGES, IMAGE_BYTES, DIRECTIVE_SECONDS = 300, 512 * 512 * 2, 60.0
ECHOES = 10
#: The test ends after this time, also where fewer objects were sent.
LONGEST_SENDING_SECONDS = 30.0
MOST_OBJECTS = 300
TEST_PATIENT, _PATIENT_ID = "EDGE^LINK TEST", "EDGE-LINK-TEST"


@dataclass(frozen=True, slots=True)
class SentTestObjects:
    """What was sent, and how long it took until the last answer."""

    objects: int
    bytes: int
    seconds: float
    study_uid: str

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def ct_seconds(self) -> float | None:
        """How long a CT takes at this rate; None: nothing was taken."""
        return CT_IMAGES * IMAGE_BYTES / self.bytes_per_second if self.bytes else None

    @property
    def meets_directive(self) -> bool:
        return self.ct_seconds is not None and self.ct_seconds <= DIRECTIVE_SECONDS


@dataclass(frozen=True, slots=True)
class LinkTest:
    """The result for one destination. `round_trips`: of C-ECHO, in seconds."""

    echo: Echo
    round_trips: tuple[float, ...] = ()
    throughput: SentTestObjects | None = None
    error: str | None = None

    @property
    def median_round_trip(self) -> float | None:
        return median(self.round_trips) if self.round_trips else None


def run_link_test(config: Config, destination: Destination, kinds: Sequence[ContextKey], objects: int) -> LinkTest:
    """Test a link; `objects` test objects are sent, 0: none. What fails is a result, too."""
    echo = ask(config, destination, kinds)
    if not echo.reachable:
        return LinkTest(echo, error=echo.error)
    if destination.is_web:
        return _test_web_link(echo, destination, min(objects, MOST_OBJECTS))
    trips: tuple[float, ...] = ()
    try:
        with _open_association(config, destination, objects > 0) as association:
            trips = tuple(_round_trips(association))
            sent = _send(partial(_store, association), min(objects, MOST_OBJECTS)) if objects else None
    except PeerError as error:
        return LinkTest(echo, trips, error=str(error))
    return LinkTest(echo, trips, sent)


@contextmanager
def _open_association(config: Config, destination: Destination, sends: bool) -> Iterator[Association]:
    kinds = [ContextKey(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)]
    kinds += [ContextKey(SECONDARY_CAPTURE, EXPLICIT_VR_LITTLE_ENDIAN)] if sends else []
    association = Association.open(
        destination.host,
        destination.port,
        config.listen.ae_title,
        destination.ae_title,
        plan_contexts(kinds).contexts,
        secure=tls.secure(config, destination),
    )
    try:
        yield association
    except BaseException:
        association.kill()
        raise
    association.release()


def _round_trips(association: Association) -> Iterator[float]:
    context = association.context_for(VERIFICATION)
    for _ in range(ECHOES if context is not None else 0):
        begin = time.monotonic()
        assert context is not None
        if status := association.echo(context):
            raise PeerError(f"it answered C-ECHO with status 0x{status:04X}")
        yield time.monotonic() - begin


def _test_web_link(echo: Echo, destination: Destination, objects: int) -> LinkTest:
    trips: list[float] = []
    try:
        session = WebSession(WebDestination(destination))
        try:
            for _ in range(ECHOES):
                begin = time.monotonic()
                session.probe()
                trips.append(time.monotonic() - begin)
            sent = _send(partial(_store_by_web, session), objects) if objects else None
        finally:
            session.close()
    except PeerError as error:
        return LinkTest(echo, tuple(trips), error=str(error))
    return LinkTest(echo, tuple(trips), sent)


def _store(association: Association, uid: str, fd: int, size: int) -> None:
    """Raises PeerError."""
    context = association.context_for(SECONDARY_CAPTURE)
    if context is None:
        raise PeerError("it does not accept Secondary Capture Image Storage in Explicit VR Little Endian")
    status, comment = association.store(context, SECONDARY_CAPTURE, uid, fd, 0, size)
    if meaning_of(status).outcome is not Outcome.SENT:
        raise PeerError(f"it refused a test object with status 0x{status:04X} {comment}".rstrip())


def _store_by_web(session: WebSession, uid: str, fd: int, size: int) -> None:
    """Raises PeerError."""
    head = plain_head(ContextKey(SECONDARY_CAPTURE, EXPLICIT_VR_LITTLE_ENDIAN), uid)
    found = session.store([RequestPart(fd, 0, size, head)])
    if uid not in read_report(found.headers.get("content-type", ""), found.body).stored:
        raise PeerError(f"it did not store a test object; it answers {found.phrase}")


def _send(store: Callable[[str, int, int], None], objects: int) -> SentTestObjects:
    """Send test objects, one after the other, until all are sent or LONGEST_SENDING_SECONDS have passed."""
    study, series, pixels = new_uid(), new_uid(), os.urandom(IMAGE_BYTES)
    begin, count, octets = time.monotonic(), 0, 0
    for number in range(1, objects + 1):
        uid = new_uid()
        with _in_memory(make_test_object(study, series, uid, number, pixels)) as (fd, size):
            store(uid, fd, size)
        count, octets = number, octets + size
        if time.monotonic() - begin > LONGEST_SENDING_SECONDS:
            break
    return SentTestObjects(count, octets, time.monotonic() - begin, study)


def make_test_object(study: str, series: str, uid: str, number: int, pixels: bytes) -> bytes:
    """The data set of one test object: a secondary capture (PS3.3 A.8.1) of 512 x 512 pixels of 16 bits."""
    today, now = time.strftime("%Y%m%d"), time.strftime("%H%M%S")
    head = item(
        {
            0x00080005: "ISO_IR 100",
            0x00080016: SECONDARY_CAPTURE,
            0x00080018: uid,
            0x00080020: today,
            0x00080030: now,
            0x00080050: "",
            0x00080060: "OT",
            0x00080064: "SYN",
            0x00080090: "",
            0x00081030: "TEST OF A LINK - NOT A PATIENT",
            0x00100010: TEST_PATIENT,
            0x00100020: _PATIENT_ID,
            0x00100030: "",
            0x00100040: "",
            0x0020000D: study,
            0x0020000E: series,
            0x00200010: "",
            0x00200011: "1",
            0x00200013: str(number),
            0x00200020: "",
            0x00280002: 1,
            0x00280004: "MONOCHROME2",
            0x00280010: 512,
            0x00280011: 512,
            0x00280100: 16,
            0x00280101: 16,
            0x00280102: 15,
            0x00280103: 0,
        }
    )
    tag = write_head(0x7FE00010, "OW", len(pixels), EXPLICIT)
    return encode_items(head, EXPLICIT_VR_LITTLE_ENDIAN) + tag + pixels


@contextmanager
def _in_memory(data: bytes) -> Iterator[tuple[int, int]]:
    fd = os.memfd_create("edge-link-test")
    try:
        os.write(fd, data)
        yield fd, len(data)
    finally:
        os.close(fd)
