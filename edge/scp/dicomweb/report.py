"""The answer of STOW-RS (PS3.18 section 10.5.3): every instance, with its RetrieveURL or why it failed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from edge.dicom.command import SUCCESS
from edge.dicom.items import Attributes, item
from edge.errors import Cause

_CLASS, _INSTANCE, _RETRIEVE_URL = 0x00081150, 0x00081155, 0x00081190
_FAILURE_REASON, _FAILED, _REFERENCED = 0x00081197, 0x00081198, 0x00081199

#: Seconds after which a caller may try again that was refused for lack of room or time.
TRY_AGAIN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class StoredPart:
    """What became of one part; empty UIDs where they could not be read."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    status: int  # as of a C-STORE; the value of Failure Reason (0008,1197)
    cause: Cause | None = None  # what hindered the gateway

    @property
    def is_stored(self) -> bool:
        return self.status == SUCCESS


def status_of(parts: Sequence[StoredPart], *, is_whole: bool) -> HTTPStatus:
    """The status of the answer. A body that was cut is never a success, whatever was stored of it."""
    stored = sum(each.is_stored for each in parts)
    if not is_whole or not parts:
        return HTTPStatus.BAD_REQUEST
    if stored == len(parts):
        return HTTPStatus.OK
    if stored:
        return HTTPStatus.ACCEPTED
    if all(each.cause is not None for each in parts):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.CONFLICT


def build_report(parts: Sequence[StoredPart], base: str) -> Attributes:
    """The data set of the answer. `base`: our own addresses up to `/studies`."""
    stored, failed = [each for each in parts if each.is_stored], [each for each in parts if not each.is_stored]
    found: dict[int, str | int | Sequence[Attributes]] = {}
    studies = {each.study_uid for each in stored}
    if len(studies) == 1:
        found[_RETRIEVE_URL] = f"{base}/studies/{studies.pop()}"
    if failed:
        found[_FAILED] = [_failed_item(each) for each in failed]
    if stored:
        found[_REFERENCED] = [_referenced_item(each, base) for each in stored]
    return item(found)


def _name(part: StoredPart) -> dict[int, str | int | Sequence[Attributes]]:
    return {_CLASS: part.sop_class_uid, _INSTANCE: part.sop_instance_uid}


def _failed_item(part: StoredPart) -> Attributes:
    return item({**_name(part), _FAILURE_REASON: part.status})


def _referenced_item(part: StoredPart, base: str) -> Attributes:
    where = f"{base}/studies/{part.study_uid}/series/{part.series_uid}/instances/{part.sop_instance_uid}"
    return item({**_name(part), _RETRIEVE_URL: where})
