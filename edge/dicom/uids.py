"""Which SOP classes are stored, and names of UIDs for people."""

from __future__ import annotations

from functools import lru_cache

import pynetdicom.sop_class as tables
from pydicom.uid import UID

VERIFICATION = "1.2.840.10008.1.1"
#: Query/Retrieve Information Models (PS3.4 annex B of C.6): Patient Root and Study Root.
PATIENT_ROOT_FIND, STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.2.2"
PATIENT_ROOT_GET, STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3"
STORAGE_COMMITMENT_PUSH = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_PUSH_INSTANCE = "1.2.840.10008.1.20.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def _standard_non_storage() -> frozenset[str]:
    """Every standard SOP class of pynetdicom's tables that C-STORE does not carry."""
    groups = [value for name, value in vars(tables).items() if name.startswith("_") and name.endswith("_CLASSES")]
    storage = set(tables._STORAGE_CLASSES.values())
    # Non-patient objects (colour palettes, hanging protocols, implants) are stored too: their keywords say so.
    return frozenset(
        str(uid)
        for group in groups
        for keyword, uid in group.items()
        if uid not in storage and not keyword.endswith("Storage")
    )


_NON_STORAGE = _standard_non_storage()


#: The standard's storage classes, images of the usual equipment first.
_USUAL = ("CTImage", "MRImage", "ComputedRadiographyImage", "DigitalXRayImageForPresentation", "UltrasoundImage")
STORAGE_CLASSES = tuple(
    str(uid) for _, uid in sorted(tables._STORAGE_CLASSES.items(), key=lambda each: not each[0].startswith(_USUAL))
)


def is_storage(abstract_syntax: str) -> bool:
    """Is it a SOP class that C-STORE carries? What no table knows is taken as one: new and private ones must pass."""
    return abstract_syntax not in _NON_STORAGE


@lru_cache(maxsize=4096)  # callers choose what is asked
def name_of(uid: str) -> str:
    """The standard's name of a UID, or the UID itself."""
    return UID(uid).name


def usable_uid(uid: str) -> bool:
    """Can this stand for an identity? PS3.5 section 9.1 allows digits and dots; some equipment sends letters too.

    Those are kept as they came: nothing here makes a path or a statement of a UID. Blanks, slashes and control
    characters are no part of any UID that was meant to be one.
    """
    return 0 < len(uid) <= 64 and uid.isascii() and uid.replace(".", "").replace("-", "").replace("_", "").isalnum()
