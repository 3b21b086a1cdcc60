"""A study as a file-set with a DICOMDIR (PS3.10), for media that can be read anywhere.

Promise: each file is compared with the digest of what was received before it is copied; a damaged one is left out and
named. File IDs have eight characters of A to Z and 0 to 9 (PS3.10 section 8.2). What goes out has the patient as the
feeds know them today, as every other copy that leaves; all other bytes are those that are kept here. [coerce] rules are
a destination's, and do not apply.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import gettempdir
from typing import IO, TYPE_CHECKING, cast

from edge.config.sections import Config
from edge.dicom import header, part10
from edge.dicom.dicomdir import WANTED, ListedFile, build_dicomdir
from edge.dicom.elements import plain_syntax
from edge.errors import EdgeError, TransformError, Unreadable
from edge.model import InstanceHeader, InstanceState, Origin, Values
from edge.store.database import Transaction
from edge.store.queries import Instance
from edge.store.todays_facts import read_today
from edge.transform.copying import PlainDataSet, digests_of, encode_pieces, read_plain
from edge.transform.correct import correct_data_set
from edge.transform.corrections import NO_FACTS, NO_RULES, TodayFacts, modifying_system
from edge.transform.demographics import facts_from
from edge.transform.editing import Edit, edited_pieces

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


@dataclass(frozen=True, slots=True)
class TodaysPatients:
    """What the systems say today of the patient of each instance, by its number, and who writes it."""

    facts: Mapping[int, TodayFacts] = field(default_factory=dict)
    system: str = "Edge"  # Modifying System (0400,0563)


AS_RECEIVED = TodaysPatients()


def read_todays_patients(conn: Transaction, config: Config, instances: Sequence[Instance]) -> TodaysPatients:
    """Without a feed, nobody knows more than the images say."""
    if not config.feeds:
        return AS_RECEIVED
    facts = {each.id: facts_from(read_today(conn, each.id)) for each in instances}
    return TodaysPatients(facts, modifying_system(config.site.id))


@contextmanager
def open_export(spool: Path, instance: Instance, today: TodaysPatients) -> Iterator[tuple[ListedFile, Iterable[bytes]]]:
    """How the medium lists one spooled file, and the pieces of its copy.

    Raises EdgeError for a file that is not what was received, or cannot be corrected, before any piece.
    """
    with ExitStack() as stack:
        try:
            found = _read_export(stack, spool / instance.path, instance, today)
        except (OSError, Unreadable):
            raise EdgeError("its file cannot be read") from None
        yield found


def _read_export(
    stack: ExitStack, path: Path, instance: Instance, today: TodaysPatients
) -> tuple[ListedFile, Iterable[bytes]]:
    syntax, facts = instance.transfer_syntax_uid, today.facts.get(instance.id, NO_FACTS)
    file = stack.enter_context(path.open("rb", buffering=0))
    meta = part10.parse_meta(os.pread(file.fileno(), part10.MAX_META, 0))
    offset, size = meta.dataset_offset, os.fstat(file.fileno()).st_size
    if digests_of(path, offset)[0].hex() != instance.sha256:
        raise EdgeError("its file is not what was received")
    plain = stack.enter_context(read_plain(file.fileno(), offset, size - offset, syntax, Path(gettempdir())))
    values = {tag: "\\".join(found).strip() for tag, found in _scan(plain, syntax).items() if found}
    edits: Sequence[Edit] = ()
    if facts != NO_FACTS:
        origin = Origin(instance.calling_ae, instance.called_ae, instance.address, instance.received_at)
        about = InstanceHeader(instance.sop_class_uid, instance.sop_instance_uid, syntax, origin)
        try:
            corrected = correct_data_set(plain.read, plain.length, syntax, about, NO_RULES, facts, today.system)
        except TransformError:
            raise EdgeError("its patient cannot be written as the systems know them today") from None
        if corrected is not None:
            edits = corrected.edits
            values |= {tag: "\\".join(each.values or ()) for tag, each in corrected.correction.attributes.items()}
    listed = ListedFile("", instance.sop_class_uid, instance.sop_instance_uid, syntax, values)
    pieces = edited_pieces(plain.read, plain.length, edits)
    return listed, chain((os.pread(file.fileno(), offset, 0),), encode_pieces(pieces, syntax))


def _scan(plain: PlainDataSet, syntax: str) -> dict[int, Values]:
    return header.scan(plain.read, plain.length, plain_syntax(syntax), WANTED, frozenset())


def export_folder(
    spool: Path,
    instances: Sequence[Instance],
    folder: Path,
    uid: str,
    report: Callable[[int, int], None],
    today: TodaysPatients = AS_RECEIVED,
) -> ExportResult:
    """Write a file-set into a folder, which must be empty or not exist. Raises EdgeError, OSError."""
    if folder.exists() and any(folder.iterdir()):
        raise EdgeError(f"{folder} is not empty; existing files are not overwritten")
    planned, left_out = plan_export(instances)
    result = ExportResult(left_out=left_out)
    for done, (each, name) in enumerate(planned, 1):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_export(spool, each, today) as (listed, pieces), target.open("xb") as out:
                out.writelines(pieces)
                out.flush()
                os.fsync(out.fileno())
        except EdgeError as error:
            target.unlink(missing_ok=True)
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


def zip_parts(
    spool: Path, instances: Sequence[Instance], uid: str, today: TodaysPatients = AS_RECEIVED
) -> Iterator[bytes]:
    """Give a file-set as a ZIP archive, part by part; nothing is held but one file's parts."""
    import zipfile  # noqa: PLC0415 - for people who ask for one

    planned, _ = plan_export(instances)
    result, sink = ExportResult(), _Sink()
    with zipfile.ZipFile(cast("IO[bytes]", sink), "w", zipfile.ZIP_STORED) as archive:
        for each, name in planned:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            try:
                with open_export(spool, each, today) as (listed, pieces):
                    with archive.open(info, "w", force_zip64=True) as out:
                        out.writelines(pieces)
                    count_exported(result, each, name, listed)
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
