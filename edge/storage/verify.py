"""Verification of the spool's files against what was received. Reads only.

A file is whole when its data set has the SHA-256 and its head has the bytes that follow from the catalog.
`edge.store.integrity` says the same of the catalog itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge.dicom import header, part10
from edge.errors import Unreadable, hindrance
from edge.model import InstanceState
from edge.spool import digest_from
from edge.store.database import Transaction
from edge.store.gateway_values import recall, remember
from edge.store.kept_files import FileRow


class DamageKind(Enum):
    """What of an instance is not as it should be."""

    MISSING = "missing"  # the file is gone or cannot be read
    DATA_SET = "data set"
    HEAD = "head"  # the File Meta Information; the data set is whole
    ROW = "row"  # the file is whole, but the catalog says something else of it


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what was received."""

    row: FileRow
    part: DamageKind
    text: str


_VERSIONS = "versions"


def writing_versions(conn: Transaction) -> frozenset[str]:
    """The versions of Edge that have written here, as they call themselves in the files."""
    kept = recall(conn, _VERSIONS)
    return frozenset(json.loads(kept) if kept else ()) | {part10.IMPLEMENTATION_VERSION}


def remember_versions(conn: Transaction, others: Collection[str] = ()) -> None:
    """Record that this version writes this catalog from now on, and that others have."""
    remember(conn, _VERSIONS, json.dumps(sorted(writing_versions(conn).union(others))))


# -- files ------------------------------------------------------------------------------------------------------------


def check_file(path: Path, row: FileRow, versions: Collection[str]) -> Damage | None:
    """Read the whole file, from the disk rather than from memory where the kernel lets us, and compare.

    `versions`: those of Edge that have written here. Raises Shortage where this machine cannot read anything just now.
    """
    try:
        fd = hindrance.retry_shortages(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        hindrance.raise_passing(error)
        return Damage(row, DamageKind.MISSING, f"its file cannot be opened ({error.strerror})")
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(fd).st_size
        head = os.pread(fd, row.dataset_offset, 0)
        digest = digest_from(fd, row.dataset_offset, hashlib.sha256())
        wrong = check_row(fd, row) if digest == row.sha256 else ""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        hindrance.raise_passing(error)
        return Damage(row, DamageKind.MISSING, f"its file cannot be read ({error.strerror})")
    finally:
        os.close(fd)
    if digest != row.sha256:
        found = f"its file has {size} bytes instead of {row.size}" if size != row.size else "the SHA-256 differs"
        return Damage(row, DamageKind.DATA_SET, f"the data set is not what was received: {found}")
    text = check_head(head, row, versions)
    if text:
        return Damage(row, DamageKind.HEAD, text)
    return Damage(row, DamageKind.ROW, wrong) if wrong else None


def check_head(head: bytes, row: FileRow, versions: Collection[str]) -> str:
    """What is wrong with a file's first bytes, up to its data set; empty when nothing is."""
    try:
        meta = part10.parse_meta(head)
    except Unreadable as error:
        return f"the File Meta Information is damaged: {error}"
    if meta.origin is None and not row.origin.calling_ae:
        return ""  # not written by us: a person put it there, and it was adopted
    if meta.version not in versions:
        return f"the File Meta Information is of a version that never ran here ({meta.version})"
    if head != part10.preamble_and_meta(row.context_key, row.sop_instance_uid, row.origin, meta.version):
        return "the File Meta Information is not what the catalog says of the object"
    return ""


_STUDY, _SERIES = 0x0020000D, 0x0020000E


def check_row(fd: int, row: FileRow) -> str:
    """Does the catalog know the length of the file, and the study and series that it names? Empty when it does."""
    size, offset = os.fstat(fd).st_size, row.dataset_offset
    if size != row.size:
        return f"the catalog says that its file has {row.size} bytes; it has {size}"
    if row.state is InstanceState.QUARANTINED:
        return ""
    length = size - offset
    try:
        found = header.scan(
            header.read_at(fd, offset),
            length,
            row.context_key.transfer_syntax_uid,
            frozenset((_STUDY, _SERIES)),
        )
    except Unreadable as error:
        return f"the catalog says that its header can be read, but {error}"
    uids = tuple(next(iter(found.get(tag, ())), "") for tag in (_STUDY, _SERIES))
    return "" if uids == (row.study_uid, row.series_uid) else "the catalog has it under another study or series"
