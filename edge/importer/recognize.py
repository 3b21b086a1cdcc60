"""The kind of a staged file, by its content: a DICOM object with its facts, a directory, or a file to be wrapped.

Pure but for reading. A data set without File Meta Information is recognized, too. No Dataset is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from edge.dicom import header, part10
from edge.dicom.uids import usable_uid
from edge.errors import Unreadable
from edge.model import Values

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
#: What is read of every object, by tag.
DISC_FACTS: Mapping[int, str] = {
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x00080020: "study_date",
    0x00080050: "accession",
    0x00080060: "modality",
    0x00081030: "description",
    0x00100010: "patient_name",
    0x00100020: "patient_id",
    0x00100021: "issuer",
    0x00100030: "birth_date",
    0x00100040: "sex",
    0x0020000D: "study_uid",
    0x0020000E: "series_uid",
}


class FileKind(str, Enum):
    """What a file is."""

    DICOM = "dicom"
    DICOMDIR = "dicomdir"
    PDF = "pdf"
    JPEG = "jpeg"
    PNG = "png"
    MP4 = "mp4"
    STL = "stl"
    FOREIGN = "foreign"
    BROKEN = "broken"

    @property
    def is_wrapped(self) -> bool:
        """Does it become a DICOM object once it is known whose it is?"""
        return self in (FileKind.PDF, FileKind.JPEG, FileKind.PNG, FileKind.MP4, FileKind.STL)


@dataclass(frozen=True, slots=True)
class Recognized:
    """One file. `facts`: by the names of DISC_FACTS, empty texts left out."""

    kind: FileKind
    facts: Mapping[str, str] = field(default_factory=dict)
    transfer_syntax_uid: str = ""
    dataset_offset: int = 0
    fault: str = ""


def recognize(fd: int, size: int) -> Recognized:
    """Say what an open file is. Raises OSError."""
    head = os.pread(fd, part10.MAX_META, 0)
    if head[128:132] == b"DICM":
        return _dicom_file(fd, size, head)
    if (kind := _by_magic(head, size)) is not None:
        return Recognized(kind)
    if _is_bare_data_set(head):
        syntax = _EXPLICIT if head[4:6].isalpha() and head[4:6].isupper() else _IMPLICIT
        return _data_set(fd, size, 0, syntax)
    return Recognized(FileKind.FOREIGN)


def _dicom_file(fd: int, size: int, head: bytes) -> Recognized:
    try:
        meta = part10.parse_meta(head)
    except Unreadable as error:
        return Recognized(FileKind.BROKEN, fault=str(error))
    if meta.context_key.sop_class_uid == DICOMDIR_CLASS:
        return Recognized(FileKind.DICOMDIR, {}, meta.context_key.transfer_syntax_uid, meta.dataset_offset)
    if not meta.context_key.transfer_syntax_uid:
        return Recognized(FileKind.BROKEN, fault="its File Meta Information names no transfer syntax")
    return _data_set(fd, size, meta.dataset_offset, meta.context_key.transfer_syntax_uid)


def _data_set(fd: int, size: int, offset: int, syntax: str) -> Recognized:
    try:
        found = header.scan(header.read_at(fd, offset), size - offset, syntax, frozenset(DISC_FACTS), frozenset())
    except Unreadable as error:
        return Recognized(FileKind.BROKEN, fault=str(error))
    facts = {name: text for tag, name in DISC_FACTS.items() if (text := _text(found.get(tag, ())))}
    if not (usable_uid(facts.get("sop_class_uid", "")) and usable_uid(facts.get("sop_instance_uid", ""))):
        return Recognized(FileKind.BROKEN, fault="its data set has no SOP Class UID and SOP Instance UID")
    if not usable_uid(facts.get("study_uid", "")):
        return Recognized(FileKind.BROKEN, fault="its data set has no Study Instance UID")
    return Recognized(FileKind.DICOM, facts, syntax, offset)


def _text(values: Values) -> str:
    return "\\".join(values).strip() if values else ""


def _is_bare_data_set(head: bytes) -> bool:
    """A data set in little endian begins with group 0008, whose first elements have low numbers and short values."""
    if (
        len(head) < 16
        or head[:2] != b"\x08\0"
        or head[2:4] not in (b"\0\0", b"\x05\0", b"\x08\0", b"\x12\0", b"\x16\0")
    ):
        return False
    if head[4:6].isalpha() and head[4:6].isupper():
        return head[4:6] in (b"UL", b"CS", b"DA", b"UI")
    return int.from_bytes(head[4:8], "little") <= 256


def _by_magic(head: bytes, size: int) -> FileKind | None:
    if head.startswith(b"%PDF-"):
        return FileKind.PDF
    if head.startswith(b"\xff\xd8\xff"):
        return FileKind.JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileKind.PNG
    if head[4:8] == b"ftyp" and head[8:12] not in (b"heic", b"heix", b"mif1", b"avif"):
        return FileKind.MP4
    if size >= 84 and size == 84 + 50 * int.from_bytes(head[80:84], "little"):
        return FileKind.STL
    return None
