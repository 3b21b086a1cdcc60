"""The confidentiality profiles of PS3.15 annex E, and a project that applies them.

`confidentiality_profile.csv` is Table E.1-1; `safe_private.csv` is Table E.3.10-1: last bytes of element numbers and
ranges of them, without bulk data, UIDs and raw data of ultrasound. In its last column are sequences, of whose elements
each is decided about.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

from edge.config import secret
from edge.config.sections import Destination
from edge.dicom.elements import vr_of

#: Coded as the copies say it (PS3.16 CID 7050).
METHOD_CODES = {
    "basic": ("113100", "Basic Application Confidentiality Profile"),
    "graphics": ("113103", "Clean Graphics Option"),
    "structured-content": ("113104", "Clean Structured Content Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "modified-dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "safe-private": ("113111", "Retain Safe Private Option"),
    "pixels": ("113101", "Clean Pixel Data Option"),  # by a device's mask
    "institution": ("113112", "Retain Institution Identity Option"),
}
#: UIDs that say what something is, not whose (PS3.6 Annex A, PS3.16).
_STANDARD_ROOT = "1.2.840.10008."
#: What can be cleaned; of other attributes that an option would clean, the basic profile decides.
_CLEANED_VRS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT", "DA", "DT", "TM", "SQ"})


# -- the table ---------------------------------------------------------------------------------------------------------


@cache
def _read_table() -> tuple[tuple[str, ...], dict[int, tuple[str, ...]]]:
    """The columns of Table E.1-1, and the row of each tag."""
    text = files("edge.transform").joinpath("confidentiality_profile.csv").read_text("ascii")
    head, *lines = (line.split(";") for line in text.splitlines())
    rows = {int(line[0], 16): tuple(line[1:]) for line in lines if "X" not in line[0]}
    return tuple(head[1:]), rows


#: What is done where the table leaves a choice by the type of the attribute: what is legal for the strictest of them.
_CHOICE = {"X/Z": "Z", "X/D": "D", "Z/D": "D", "X/Z/D": "D", "X/Z/U*": "U"}


#: What the table lacks, and what names the patient all the same or who assigned a number: dates in another calendar,
#: issuers, numbers of orders and of animals, and a free text whose neighbours are in the table.
_BEYOND_THE_TABLE = (
    *(0x00100033, 0x00100034, 0x00100035, 0x00102294, 0x00102295),
    *(0x00080051, 0x00100024, 0x00400026, 0x00400027, 0x00400400),
    *(0x00401006, 0x00401007, 0x00402006, 0x00402007),
)


@cache
def table_actions(options: frozenset[str]) -> Mapping[int, str]:
    """X, Z, D, U, K or C of each tag of Table E.1-1 and beyond, with these options (PS3.15 section E.3)."""
    columns, rows = _read_table()
    found = dict.fromkeys(_BEYOND_THE_TABLE, "X")
    for tag, row in rows.items():
        said = {row[columns.index(option)] for option in options if option in columns}
        basic = _CHOICE.get(row[0], row[0])
        found[tag] = "K" if "K" in said else "C" if "C" in said and vr_of(tag) in _CLEANED_VRS else basic
    return found


@cache
def safe_private(group: int, creator: str) -> Mapping[int, str]:
    """The elements of a creator's block that Table E.3.10-1 calls safe, by their last byte: "SQ", or "" for a value."""
    return _read_safe_private().get((group, creator), {})


@cache
def _read_safe_private() -> dict[tuple[int, str], dict[int, str]]:
    text = files("edge.transform").joinpath("safe_private.csv").read_text("ascii")
    found = {}
    for line in text.splitlines()[1:]:
        group, creator, values, sequences = line.split(";")
        found[int(group, 16), creator] = {
            number: vr for ranges, vr in ((values, ""), (sequences, "SQ")) for number in _numbers(ranges)
        }
    return found


def _numbers(ranges: str) -> Iterator[int]:
    for each in ranges.split():
        first, _, last = each.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


# -- a project ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deidentification:
    """What a destination's copies lose and keep, and the key with which they get other names."""

    project: str
    key: bytes = field(repr=False)
    options: frozenset[str] = frozenset()

    def _hash(self, kind: str, text: str) -> bytes:
        return hmac.new(self.key, f"{self.project}\0{kind}\0{text}".encode(), hashlib.sha256).digest()

    def map_uid(self, uid: str) -> str:
        """The project's UID for another (PS3.5 section B.2); what is none, or no instance's, stays."""
        if not uid or uid.startswith(_STANDARD_ROOT) or "uids" in self.options:
            return uid
        return f"2.25.{int.from_bytes(self._hash('uid', uid)[:16], 'big')}"

    def pseudonym(self, patient: str) -> str:
        code = base64.b32encode(self._hash("patient", patient)[:10]).decode("ascii")[:10]
        return f"{self.project}-{code}"

    def study_id(self, study_uid: str) -> str:
        return str(int.from_bytes(self._hash("study", study_uid)[:6], "big"))[:12]

    def shift_days(self, patient: str) -> int:
        """Days by which all dates of a patient are shifted back."""
        return 1 + int.from_bytes(self._hash("days", patient)[:4], "big") % 3650


def read_project(
    destination: Destination, read_key: Callable[[Path], bytes] = secret.read_key
) -> Deidentification | None:
    """The project whose copies a destination gets, with its key. Raises SecretError."""
    if destination.deidentify == "none":
        return None
    options = frozenset((*destination.retain, *destination.clean))
    return Deidentification(destination.project, read_key(Path(destination.project_key)), options)
