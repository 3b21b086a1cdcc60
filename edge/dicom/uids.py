"""The SOP classes that are stored, and names of UIDs for people."""

from __future__ import annotations

import re

from edge.model.dictionary import STANDARD_UIDS

VERIFICATION = "1.2.840.10008.1.1"
#: Query/Retrieve Information Models (PS3.4 annex B of C.6): Patient Root and Study Root.
PATIENT_ROOT_FIND, STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.2.2"
PATIENT_ROOT_GET, STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3"
STORAGE_COMMITMENT_PUSH = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_PUSH_INSTANCE = "1.2.840.10008.1.20.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
#: Those in which objects are kept (PS3.5 section 10).
TRANSFER_SYNTAXES = (
    *(EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93)),
    *(f"1.2.840.10008.1.2.4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108, 110, 201, 202, 203)),
    "1.2.840.10008.1.2.5",
)

#: Of PS3.6 annex A, newer than pydicom's table: label and height map segmentations, waveform presentation states.
_NEWER = tuple(f"1.2.840.10008.5.1.4.1.1.{part}" for part in ("66.7", "66.8", "9.100.1", "9.100.2"))


def _is_stored(name: str) -> bool:
    """The name of a SOP class says whether C-STORE carries it; two of the retired ones have none any more."""
    return not name or ("Storage" in name and not name.startswith("Storage Commitment"))


#: Every standard SOP class that C-STORE does not carry.
_NON_STORAGE = frozenset(
    uid for uid, (name, kind, *_) in STANDARD_UIDS.items() if "SOP Class" in kind and not _is_stored(name)
)

#: Images of the usual equipment.
_USUAL = ("CTImage", "MRImage", "ComputedRadiographyImage", "DigitalXRayImageForPresentation", "UltrasoundImage")
_COMMON = "Image|SR|RT|Presentation|PDF|KeyObject|Segmentation"


def _storage_classes() -> tuple[str, ...]:
    """The storage classes of DICOM that are not retired (the others' `info` names another standard)."""
    current = {
        uid: keyword
        for uid, (name, kind, info, retired, keyword) in STANDARD_UIDS.items()
        if kind == "SOP Class" and name and not info and not retired and _is_stored(name)
    }

    def rarity(uid: str) -> tuple[bool, bool]:
        return not current[uid].startswith(_USUAL), not re.search(_COMMON, current[uid])

    return (*sorted(current, key=rarity), *_NEWER)


#: The usual ones first, then images, reports, radiotherapy and presentation states: an association has no room for all.
STORAGE_CLASSES = _storage_classes()


def is_storage(abstract_syntax: str) -> bool:
    """Is it a SOP class that C-STORE carries? What no table knows is taken as one: new and private ones must pass."""
    return abstract_syntax not in _NON_STORAGE


def name_of(uid: str) -> str:
    """The standard's name of a UID, or the UID itself."""
    name, *_ = STANDARD_UIDS.get(uid, (uid,))
    return name or uid


def usable_uid(uid: str) -> bool:
    """Can this stand for an identity? PS3.5 section 9.1 allows digits and dots; some equipment sends letters too.

    Those are kept as they came: nothing here makes a path or a statement of a UID. Blanks, slashes and control
    characters are no part of any UID that was meant to be one.
    """
    return 0 < len(uid) <= 64 and uid.isascii() and uid.replace(".", "").replace("-", "").replace("_", "").isalnum()


_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(uid: str) -> bool:
    """Is it made as PS3.5 section 9.1 says? A zero in front of a component passes: no number changes by it."""
    return len(uid) <= 64 and _UID.fullmatch(uid) is not None
