"""A study as a file-set with a DICOMDIR (PS3.10), for media that can be read anywhere.

Promise: each file is compared with the digest of what was received while it is copied; a damaged one is left out and
named. File IDs have eight characters of A to Z and 0 to 9 (PS3.10 section 8.2). Bytes are those that are kept here.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from edge.dicom import header, part10
from edge.dicom.dicomdir import WANTED, ListedFile, build_dicomdir
from edge.errors import EdgeError, Unreadable
from edge.model import InstanceState
from edge.spool import HASH_CHUNK
from edge.store.queries import Instance

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: Objects in these states have a file.
_HERE = (InstanceState.STORED, InstanceState.CONFLICT)


@dataclass(slots=True)
class ExportResult:
    """What has been exported."""

    files: list[ListedFile] = field(default_factory=list)
    instances: list[int] = field(default_factory=list)
    bytes: int = 0
    left_out: list[tuple[int, str]] = field(default_factory=list)  # (instance, why)


def plan_export(instances: Sequence[Instance]) -> tuple[list[tuple[Instance, str]], list[tuple[int, str]]]:
    """Return (instance, its File ID) of what is here, and (instance, why) of what is not. Pure."""
    planned: list[tuple[Instance, str]] = []
    left_out: list[tuple[int, str]] = []
    series: dict[str, int] = {}
    for each in instances:
        if each.state not in _HERE:
            left_out.append((each.id, f"it is {each.state.value}"))
            continue
        number = series.setdefault(each.series_uid, len(series))
        planned.append((each, f"DICOM/S{number:07}/I{len(planned):07}"))
    return planned, left_out


def file_set_uid(study_uid: str) -> str:
    """A UID for the file-set of a study (PS3.5 section B.2)."""
    digest = hashlib.sha256(f"edge file-set {study_uid}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def copy_checked(spool: Path, instance: Instance, write: Callable[[bytes], object]) -> ListedFile:
    """Give the bytes of one spooled file to `write`. Raises EdgeError for a file that is not what was received."""
    path, digest = spool / instance.path, hashlib.sha256()
    try:
        with path.open("rb") as file:
            head = file.read(part10.MAX_META)
            offset = part10.parse_meta(head).dataset_offset
            length = os.fstat(file.fileno()).st_size - offset
            values = _values(file.fileno(), offset, length, instance.transfer_syntax_uid)
            file.seek(0)
            write(file.read(offset))
            while chunk := file.read(HASH_CHUNK):
                digest.update(chunk)
                write(chunk)
    except (OSError, Unreadable):
        raise EdgeError("its file cannot be read") from None
    if digest.hexdigest() != instance.sha256:
        raise EdgeError("its file is not what was received")
    return ListedFile("", instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid, values)


def _values(fd: int, offset: int, length: int, syntax: str) -> dict[int, str]:
    found = header.scan(lambda at, n: os.pread(fd, n, offset + at), length, syntax, WANTED, frozenset())
    return {tag: "\\".join(values).strip() for tag, values in found.items() if values}


def export_folder(
    spool: Path, instances: Sequence[Instance], folder: Path, uid: str, report: Callable[[int, int], None]
) -> ExportResult:
    """Write a file-set into a folder, which must be empty or not exist. Raises EdgeError, OSError."""
    if folder.exists() and any(folder.iterdir()):
        raise EdgeError(f"{folder} is not empty: nothing is written over")
    planned, left_out = plan_export(instances)
    result = ExportResult(left_out=left_out)
    for done, (each, name) in enumerate(planned, 1):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("xb") as out:
                listed = copy_checked(spool, each, out.write)
                out.flush()
                os.fsync(out.fileno())
        except EdgeError as error:
            target.unlink()
            result.left_out.append((each.id, str(error)))
            continue
        count_exported(result, each, name, listed)
        report(done, len(planned))
    if not result.files:
        raise EdgeError("no image of the study is on this disk")
    (folder / "DICOMDIR").write_bytes(build_dicomdir(result.files, uid, part10.IMPLEMENTATION_CLASS_UID))
    return result


def count_exported(result: ExportResult, instance: Instance, name: str, listed: ListedFile) -> None:
    """Count one file that has been copied."""
    result.files.append(
        ListedFile(name, listed.sop_class_uid, listed.sop_instance_uid, listed.transfer_syntax_uid, listed.values)
    )
    result.instances.append(instance.id)
    result.bytes += instance.size


def zip_parts(spool: Path, instances: Sequence[Instance], uid: str) -> Iterator[bytes]:
    """Give a file-set as a ZIP archive, part by part; nothing is held but one file's parts."""
    import zipfile  # noqa: PLC0415 - for people who ask for one

    planned, _ = plan_export(instances)
    result, sink = ExportResult(), _Sink()
    with zipfile.ZipFile(cast("IO[bytes]", sink), "w", zipfile.ZIP_STORED) as archive:
        for each, name in planned:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as out:
                try:
                    count_exported(result, each, name, copy_checked(spool, each, out.write))
                except EdgeError as error:
                    result.left_out.append((each.id, str(error)))
            yield sink.take()
        archive.writestr("DICOMDIR", build_dicomdir(result.files, uid, part10.IMPLEMENTATION_CLASS_UID))
        if result.left_out:
            lines = [f"instance {number}: {why}" for number, why in result.left_out]
            archive.writestr("DAMAGED.TXT", "\r\n".join(("These files are damaged or gone:", *lines, "")))
    yield sink.take()


class _Sink(io.RawIOBase):
    """What a ZIP archive writes to; what is in it is taken by and by."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data
