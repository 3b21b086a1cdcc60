"""Rejection notes: Key Object Selection Documents that reject what they name (IHE RAD TF-3 section 4.66). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from edge.dicom import items
from edge.dicom.items import Attributes
from edge.errors import Unreadable

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
_TITLE, _CODE_VALUE, _SCHEME = 0x0040A043, 0x00080100, 0x00080102
_EVIDENCE, _SERIES, _OBJECTS, _UID = 0x0040A375, 0x00081115, 0x00081199, 0x00081155


class RejectionCode(str, Enum):
    """Why instances are rejected (PS3.16 CID 7011)."""

    QUALITY = "113001"
    PATIENT_SAFETY = "113037"
    WRONG_WORKLIST_ENTRY = "113038"
    RETENTION = "113039"


@dataclass(frozen=True, slots=True)
class RejectionNote:
    """`rejected`: SOP Instance UIDs."""

    code: RejectionCode
    rejected: tuple[str, ...]


def read_note(data: bytes, transfer_syntax_uid: str) -> RejectionNote | None:
    """The note that a key object is; None where it is none, or cannot be read."""
    try:
        found = items.decode_items(data, transfer_syntax_uid)
    except Unreadable:
        return None
    titles = (each.text(_CODE_VALUE) for each in found.items_of(_TITLE) if each.text(_SCHEME) == "DCM")
    code = next((RejectionCode(each) for each in titles if each in {code.value for code in RejectionCode}), None)
    return None if code is None else RejectionNote(code, tuple(dict.fromkeys(_evidence(found))))


def _evidence(found: Attributes) -> Iterator[str]:
    """What the Current Requested Procedure Evidence Sequence names (PS3.3 section C.17.6.2)."""
    for study in found.items_of(_EVIDENCE):
        for series in study.items_of(_SERIES):
            for each in series.items_of(_OBJECTS):
                if uid := each.text(_UID):
                    yield uid
