"""The data sets of N-CREATE and N-SET of performed procedure steps (PS3.4 section F.7.2), and the answers to them.

Pure. A data set that lacks what the Standard requires, or holds a value that it does not allow, is a StepFault with the
attribute's name; nothing of it is kept then. Attributes that N-SET names and N-CREATE did not are taken all the same:
scanners do so, and a refused final state would leave the step open for good.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from edge.dicom import items
from edge.dicom.command import SUCCESS
from edge.dicom.commitment import SERIES_INSTANCE_UID, STUDY_INSTANCE_UID
from edge.dicom.items import Attributes
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, usable_uid
from edge.model.dictionary import keyword_for_tag

MODALITY_PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
INSTANCE_AVAILABILITY_NOTIFICATION = "1.2.840.10008.5.1.4.33"

#: DIMSE statuses of N-CREATE and N-SET (PS3.7 section 10.1 and annex C).
INVALID_VALUE, MAY_NOT_BE_UPDATED, DUPLICATE_STEP = 0x0106, 0x0110, 0x0111
NO_SUCH_STEP, INVALID_UID, MISSING_ATTRIBUTE, RESOURCES = 0x0112, 0x0117, 0x0120, 0x0213
#: Error ID of an N-SET behind the final state (PS3.4 section F.7.2.2.3).
NO_LONGER_UPDATED = 0xA710

ACCESSION_NUMBER, MODALITY = 0x00080050, 0x00080060
SOP_CLASS, SOP_INSTANCE = 0x00081150, 0x00081155
STATION_AE_TITLE, PERFORMED_DATE, PERFORMED_TIME = 0x00400241, 0x00400244, 0x00400245
STEP_STATUS, STEP_ID = 0x00400252, 0x00400253
SCHEDULED_STEP_ID, SCHEDULED_ATTRIBUTES = 0x00400009, 0x00400270
PERFORMED_SERIES = 0x00400340
_IMAGES, OTHER_OBJECTS = (
    0x00081140,
    0x00400220,
)  # Referenced Image, Referenced Non-Image Composite
#: Type 1 in N-CREATE (PS3.4 table F.7.2-1), beside the two that are checked more closely.
_REQUIRED = (MODALITY, STATION_AE_TITLE, PERFORMED_DATE, PERFORMED_TIME, STEP_ID)


class StepState(str, Enum):
    """Performed Procedure Step Status (PS3.3 section C.4.14)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"

    @property
    def is_final(self) -> bool:
        return self is not StepState.IN_PROGRESS


class StepOperation(str, Enum):
    """What a message does with a step."""

    CREATE = "create"
    SET = "set"


class StepFault(Exception):
    """A data set that may not be taken: the DIMSE status, the attribute, and what is wrong with it."""

    def __init__(self, status: int, tag: int) -> None:
        self.status, self.tag = status, tag
        what = "is missing" if status == MISSING_ATTRIBUTE else "has a value that is not allowed"
        super().__init__(f"{keyword_for_tag(tag)} {what}")


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """An item of Scheduled Step Attributes Sequence: the step of the worklist that is performed."""

    study_uid: str
    scheduled_step_id: str
    accession_number: str


@dataclass(frozen=True, slots=True)
class PerformedObject:
    """An instance that the step names."""

    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class StepMessage:
    """What a message says of its step. `state`, `has_series` None: the message leaves it as it is."""

    state: StepState | None
    has_series: bool | None = None  # that were performed
    station_ae: str = ""
    modality: str = ""  # CT, MR ...
    step_id: str = ""
    scheduled: tuple[ScheduledStep, ...] = ()
    objects: tuple[PerformedObject, ...] = ()


def new_step_uid() -> str:
    """A UID that nobody has used (PS3.5 section B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def read_create(data_set: Attributes) -> StepMessage:
    """What an N-CREATE says. Raises StepFault."""
    if not data_set.text(STEP_STATUS):
        raise StepFault(MISSING_ATTRIBUTE, STEP_STATUS)
    if data_set.text(STEP_STATUS) != StepState.IN_PROGRESS:
        raise StepFault(INVALID_VALUE, STEP_STATUS)
    for tag in _REQUIRED:
        if not data_set.text(tag):
            raise StepFault(MISSING_ATTRIBUTE, tag)
    scheduled = data_set.items_of(SCHEDULED_ATTRIBUTES)
    if not scheduled:
        raise StepFault(MISSING_ATTRIBUTE, SCHEDULED_ATTRIBUTES)
    for each in scheduled:
        if not each.text(STUDY_INSTANCE_UID):
            raise StepFault(MISSING_ATTRIBUTE, STUDY_INSTANCE_UID)
        if not usable_uid(each.text(STUDY_INSTANCE_UID)):
            raise StepFault(INVALID_VALUE, STUDY_INSTANCE_UID)
    return _message(data_set, StepState.IN_PROGRESS)


def read_set(data_set: Attributes) -> StepMessage:
    """What an N-SET says. Raises StepFault."""
    text, state = data_set.text(STEP_STATUS), None
    if STEP_STATUS in data_set:
        try:
            state = StepState(text)
        except ValueError:
            raise StepFault(INVALID_VALUE if text else MISSING_ATTRIBUTE, STEP_STATUS) from None
    series = data_set.items_of(PERFORMED_SERIES)
    for each in series:
        if not each.text(SERIES_INSTANCE_UID):
            raise StepFault(MISSING_ATTRIBUTE, SERIES_INSTANCE_UID)
    return _message(data_set, state)


def _message(data_set: Attributes, state: StepState | None) -> StepMessage:
    scheduled = tuple(
        ScheduledStep(each.text(STUDY_INSTANCE_UID), each.text(SCHEDULED_STEP_ID), each.text(ACCESSION_NUMBER))
        for each in data_set.items_of(SCHEDULED_ATTRIBUTES)
    )
    has_series = bool(data_set.items_of(PERFORMED_SERIES)) if PERFORMED_SERIES in data_set else None
    station, modality, step_id = map(data_set.text, (STATION_AE_TITLE, MODALITY, STEP_ID))
    return StepMessage(
        state, has_series, station, modality, step_id, scheduled, tuple(dict.fromkeys(_objects(data_set)))
    )


def _objects(data_set: Attributes) -> Iterator[PerformedObject]:
    for series in data_set.items_of(PERFORMED_SERIES):
        for sequence in (_IMAGES, OTHER_OBJECTS):
            for each in series.items_of(sequence):
                if uid := each.text(SOP_INSTANCE):
                    yield PerformedObject(series.text(SERIES_INSTANCE_UID), each.text(SOP_CLASS), uid)


def digest_data_set(data_set: Attributes) -> bytes:
    """SHA-256 of what a data set says, whatever its encoding: is an N-CREATE that comes again the same?"""
    return hashlib.sha256(items.encode_items(data_set, EXPLICIT_VR_LITTLE_ENDIAN)).digest()


@dataclass(frozen=True, slots=True)
class KnownStep:
    """What is on record of a step."""

    state: StepState
    digest: bytes  # of its N-CREATE
    has_series: bool = False  # that were performed, by its messages so far


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """`status`: of the response. `is_repeat`: all of the message is on record already."""

    status: int
    is_repeat: bool = False


def answer_step(
    known: KnownStep | None, operation: StepOperation, state: StepState | None, digest: bytes, has_series: bool | None
) -> StepAnswer:
    """What a message of a step is answered (PS3.4 section F.7.2.2).

    In its final state a step has a series, by that message or by one before it.
    """
    if operation is StepOperation.CREATE:
        if known is None:
            return StepAnswer(SUCCESS)
        is_same = known.digest == digest
        return StepAnswer(SUCCESS, is_repeat=True) if is_same else StepAnswer(DUPLICATE_STEP)
    if known is None:
        return StepAnswer(NO_SUCH_STEP)
    if known.state.is_final:
        return StepAnswer(MAY_NOT_BE_UPDATED)
    will_have_series = known.has_series if has_series is None else has_series
    is_lacking = state is not None and state.is_final and not will_have_series
    return StepAnswer(MISSING_ATTRIBUTE if is_lacking else SUCCESS)
