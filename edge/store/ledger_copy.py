"""The journal: a second copy of the custody ledger beside the catalog, and what of each instance finds its file again.

    journal/<first row>.jsonl   one ledger row a line, in order; those of arrivals name the file and its SHA-256, too

It is written behind the path, from rows that are committed, before the checkpoint takes them out of the catalog's log.
So a catalog that has lost committed rows (a log whose bits have rotted is cut silently) shows at the next start, and
`edge recover` has the rows again. A line that a crash has torn is cut off and written anew.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge.errors import StorageFull, StorageUnhealthy
from edge.store import ledger, patients
from edge.store.database import Connection
from edge.store.patients import Header

log = logging.getLogger(__name__)

NAME = "journal"
#: Rows that are copied at once.
BATCH = 5000
#: Events that bring an instance's file.
ARRIVALS = (ledger.RECEIVED, ledger.ADOPTED, ledger.CONFLICT, ledger.QUARANTINED, ledger.REPAIRED)
#: A file of the journal is followed by a new one when it is so long.
FILE_BYTES = 64 << 20
#: Longer than any line.
_TAIL = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """What finds an instance's file again, and says of it what the catalog said."""

    instance_id: int
    path: str
    sha256: bytes
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    size: int
    dataset_offset: int
    calling_ae: str
    called_ae: str
    address: str
    received_at: float
    series_id: int | None = None
    instance_number: str = ""
    header: Header | None = None  # what `series_id` stands for; said now and then, not in each line


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger; with the file where it is about an arrival."""

    seq: int
    at: float
    event: str
    who: str
    study_id: int | None
    instances: str
    destination: str
    detail: str
    hash: bytes
    file: File | None = None

    @property
    def told(self) -> tuple[float, str, str, int | None, str, str, str]:
        """What the hash covers, beside the hash before it."""
        return self.at, self.event, self.who, self.study_id, self.instances, self.destination, self.detail

    def follows(self, before: bytes) -> bool:
        """Is it what was written behind the row with that hash?"""
        try:
            return ledger.row_hash(before, *self.told) == self.hash
        except (TypeError, ValueError):
            return False  # rotten beyond JSON

    def line(self) -> bytes:
        values: list[Any] = [self.seq, *self.told, self.hash.hex()]
        if self.file is not None:
            each, path, sha256, *rest = astuple(replace(self.file, header=None))
            header = self.file.header.flat() if self.file.header is not None else None
            values += [each, path, sha256.hex(), *rest[:-1], header]
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Entry:
        """Raises ValueError for what is no line of ours."""
        try:
            seq, at, event, who, study, instances, destination, detail, digest, *file = json.loads(line)
            found = _file(file) if file else None
            hash_ = bytes.fromhex(digest)
            return cls(int(seq), at, event, who, study, instances, destination, detail, hash_, found)
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(str(error)) from None


def _file(values: Sequence[Any]) -> File:
    """From the values of a line; lines of 0.1.0 end with `received_at`."""
    given = dict(zip((field.name for field in fields(File)), values, strict=False))
    header = given.pop("header", None)
    given["sha256"] = bytes.fromhex(given["sha256"])
    return File(**given, header=Header.of(header) if header else None)


_ROWS = f"""
SELECT l.seq, l.at, l.event, l.who, l.study_id, l.instances, l.destination, l.detail, l.hash,
       i.id, i.path, i.sha256, i.sop_instance_uid, k.sop_class_uid, k.transfer_syntax_uid, coalesce(s.study_uid, ''),
       i.series_uid, i.size, i.dataset_offset, i.calling_ae, i.called_ae, i.address, i.received_at,
       i.series_id, i.instance_number
FROM ledger l
LEFT JOIN instance i ON l.event IN {ARRIVALS}
     AND i.id = CASE WHEN json_valid(l.instances) THEN json_extract(l.instances, '$[0]') END
LEFT JOIN kind k ON k.id = i.kind_id
LEFT JOIN study s ON s.id = i.study_id
WHERE l.seq > ? ORDER BY l.seq LIMIT ?
"""


def _entry(row: Sequence[Any]) -> Entry:
    seq, at, event, who, study, instances, destination, detail, digest, *file = row
    found = File(*file) if file[0] is not None and file[4] is not None else None
    return Entry(seq, at, event, who, study, instances, destination, detail, digest, found)


def _with_headers(conn: Connection, entries: Sequence[Entry]) -> list[Entry]:
    """The first line of each series in what is written at once says what its headers say."""
    first: dict[int, int] = {}
    for at, entry in enumerate(entries):
        if entry.file is not None and entry.file.series_id is not None:
            first.setdefault(entry.file.series_id, at)
    known, found = patients.headers(conn, first), list(entries)
    for series, at in first.items():
        file = entries[at].file
        assert file is not None
        found[at] = replace(entries[at], file=replace(file, header=known.get(series)))
    return found


class Journal:
    """Owner of the directory `journal` of a data directory; one thread writes."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / NAME
        self._last: Entry | None = None
        self._looked = self._clean = False

    @property
    def last(self) -> Entry | None:
        """The newest whole line."""
        if not self._looked:
            self._last, self._looked = self._find_last(), True
        return self._last

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _find_last(self) -> Entry | None:
        for path in reversed(self._files()):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                for line in reversed(file.read().split(b"\n")[:-1]):
                    try:
                        return Entry.read(line)
                    except ValueError:
                        continue  # rotten, or the end of a longer one
        return None

    def entries(self) -> Iterator[Entry]:
        """Every line that can be read, in order."""
        for path in self._files():
            with path.open("rb") as file:
                for line in file:
                    try:
                        yield Entry.read(line)
                    except ValueError:
                        continue

    def vanished(self, conn: Connection) -> str:
        """What the journal has and the catalog lacks, in words; empty when nothing has gone."""
        last = self.last
        if last is None:
            return ""
        row = conn.execute("SELECT hash FROM ledger WHERE seq = ?", (last.seq,)).fetchone()
        if row is None:
            (newest,) = conn.execute("SELECT coalesce(max(seq), 0) FROM ledger").fetchone()
            return f"it has lost rows {newest + 1} to {last.seq} of the custody ledger"
        return "" if row[0] == last.hash else f"its custody ledger has another row {last.seq} than the journal"

    def write(self, conn: Connection, limit: int = BATCH) -> int:
        """Copy what the ledger has and the journal has not. Returns how many rows.

        Raises OSError or StorageFull, after which it may be tried again; StorageUnhealthy where a sync failed.
        """
        after = self.last.seq if self.last else 0
        entries = _with_headers(conn, [_entry(row) for row in conn.execute(_ROWS, (after, limit))])
        if entries:
            self._append(entries[0].seq, b"".join(entry.line() for entry in entries))
            self._last = entries[-1]
        return len(entries)

    def _append(self, seq: int, text: bytes) -> None:
        last = next(reversed(self._files()), None)
        is_new = last is None or last.stat().st_size > FILE_BYTES
        path = self._folder / f"{seq:012}.jsonl" if last is None or is_new else last
        if is_new:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if not self._clean:
                _cut_torn_line(fd)
                self._clean = True
            if os.write(fd, text) != len(text):
                raise StorageFull(f"{path} cannot grow: the disk is full")
            _sync(fd, path)
        except BaseException:
            self._looked = self._clean = False  # what is in the file now, the next call finds out
            raise
        finally:
            os.close(fd)
        if is_new:
            _sync_folder(self._folder)
            _sync_folder(self._folder.parent)


def _cut_torn_line(fd: int) -> None:
    """A crash in the midst of a line: what is behind the last line end goes."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _TAIL, max(0, size - _TAIL))
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn:
        os.ftruncate(fd, size - torn)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(fd, folder)
    finally:
        os.close(fd)


def _sync(fd: int, path: Path) -> None:
    try:
        os.fsync(fd)
    except OSError as error:  # of whatever kind: a sync that failed is not tried again
        raise StorageUnhealthy(f"sync of {path} failed ({error.strerror})") from error
