"""The journal: a second copy of the custody ledger beside the catalog, with what finds each instance's file again.

    journal/<first row>.jsonl      one ledger row a line, in order; those of arrivals name the file and its SHA-256, too
    journal/<first row>.jsonl.gz   the same of long ago, packed: a gzip member (RFC 1952) for each few lines, so that
                                   damage costs no others; `zcat` reads it

It is written behind the path, from rows that are committed, before the checkpoint takes them out of the catalog's log.
So a catalog that has lost committed rows (SQLite cuts a damaged log silently) shows at the next start, and
`edge recover` has the rows again. A line that a crash has torn is cut off and written again.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any

from edge.errors import StorageFull
from edge.store import ledger, patients
from edge.store.database import Transaction
from edge.store.ledger import Payload
from edge.store.ledger_text import payload_of
from edge.store.patients import Header
from edge.store.sqlite_file import sync_fd, sync_path

log = logging.getLogger(__name__)

_NAME = "journal"
#: Rows that are copied at once.
_BATCH = 5000
#: Events that bring an instance's file.
ARRIVALS = (ledger.RECEIVED, ledger.ADOPTED, ledger.CONFLICT, ledger.QUARANTINED, ledger.REPAIRED)
#: A file of the journal that is longer is followed by a new one.
FILE_BYTES = 64 << 20
#: Lines of about this number of bytes are packed together.
PACKED_BYTES = 1 << 20
#: How a member begins that `gzip.compress` makes.
_MEMBER = b"\x1f\x8b\x08\0\0\0\0\0"
#: Longer than any line.
_TAIL = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """What finds an instance's file again, and what the catalog has of it."""

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
    header: Header | None = None  # what `series_id` stands for; written now and then, not in each line


#: The values that a line has between SHA-256 and header; dataclasses.astuple takes twenty times as long.
_BEHIND_SHA256 = attrgetter(*[each.name for each in fields(File)][3:-1])
_encode = json.JSONEncoder(separators=(",", ":")).encode


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
    payload_json: str | None  # None: a row of 0.1.0
    hash: bytes
    file: File | None = None

    @property
    def values(self) -> tuple[Any, ...]:
        """The values of ledger.COLUMNS."""
        found = self.at, self.event, self.who, self.study_id, self.instances, self.destination, self.detail
        return (*found, self.payload_json)

    @property
    def payload(self) -> Payload:
        return payload_of(self.event, self.who, self.destination, self.detail, self.payload_json)

    def follows(self, before: bytes) -> bool:
        """Is it what was written behind the row with that hash?"""
        return ledger.follows(before, self.values, self.hash)

    def line(self) -> bytes:
        values: list[Any]
        *values, detail, payload = [self.seq, *self.values]
        values += [detail if payload is None else [detail, payload], self.hash.hex()]
        if (file := self.file) is not None:
            header = file.header.flat() if file.header is not None else None
            values += [file.instance_id, file.path, file.sha256.hex(), *_BEHIND_SHA256(file), header]
        return _encode(values).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Entry:
        """Raises ValueError for what is no line of ours."""
        try:
            seq, at, event, who, study, instances, destination, detail, digest, *file = json.loads(line)
            found = _file(file) if file else None
            text, payload = detail if isinstance(detail, list) else (detail, None)
            hash_ = bytes.fromhex(digest)
            return cls(int(seq), at, event, who, study, instances, destination, text, payload, hash_, found)
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(str(error)) from None


def entry_of_row(row: Mapping[str, Any]) -> Entry:
    """A row of the ledger by the names of its columns; one of 0.1.0 has no payload."""
    return Entry(*(row.get(name) for name in ("seq", *ledger.COLUMNS.split(", "), "hash")))  # type: ignore[arg-type]


def _file(values: Sequence[Any]) -> File:
    """Build it from the values of a line; lines of 0.1.0 end with `received_at`."""
    given = dict(zip((field.name for field in fields(File)), values, strict=False))
    header = given.pop("header", None)
    given["sha256"] = bytes.fromhex(given["sha256"])
    return File(**given, header=Header.from_values(header) if header else None)


_ROWS = f"""
SELECT l.seq, l.at, l.event, l.who, l.study_id, l.instances, l.destination, l.detail, l.payload, l.hash,
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
    seq, at, event, who, study, instances, destination, detail, payload, digest, *file = row
    found = File(*file) if file[0] is not None and file[4] is not None else None
    return Entry(seq, at, event, who, study, instances, destination, detail, payload, digest, found)


def _with_headers(conn: Transaction, entries: Sequence[Entry]) -> list[Entry]:
    """The first line of each series in one batch has what its headers say."""
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
        self._folder = data_dir / _NAME
        self._last: Entry | None = None
        self._is_searched = self._clean = False

    @classmethod
    def open_folder(cls, folder: Path) -> Journal:
        """One that is kept elsewhere, to be read; `folder`: that of the files."""
        found = cls(folder.parent)
        found._folder = folder
        return found

    @property
    def last(self) -> Entry | None:
        """The newest whole line."""
        if not self._is_searched:
            self._last, self._is_searched = self._find_last(), True
        return self._last

    def _files(self) -> list[Path]:
        """The oldest first. One that is there twice is not packed to its end."""
        found = {path.name.partition(".")[0]: path for path in self._folder.glob("*.jsonl.gz")}
        found |= {path.stem: path for path in self._folder.glob("*.jsonl")}
        return [found[name] for name in sorted(found)]

    def _find_last(self) -> Entry | None:
        for path in reversed(self._files()):
            for line in reversed(_last_lines(path)):
                try:
                    return Entry.read(line)
                except ValueError:
                    continue  # damaged, or the end of a longer one
        return None

    def entries(self) -> Iterator[Entry]:
        """Every line that can be read, in order."""
        for path in self._files():
            for line in _lines(path):
                try:
                    yield Entry.read(line)
                except ValueError:
                    continue

    def pack_one(self) -> bool:
        """Pack a file that is followed by another. Returns whether there was one.

        It is written, synced and read again before the lines that it stands for go. Raises OSError, StorageUnhealthy.
        """
        path = next((path for path in self._files()[:-1] if path.suffix == ".jsonl"), None)
        if path is None:
            return False
        # No name of edge.journal's own files, which come and go in the same directory.
        packing = path.with_suffix(".packing")
        with path.open("rb") as lines, packing.open("wb") as file:
            while some := lines.readlines(PACKED_BYTES):
                file.write(gzip.compress(b"".join(some), mtime=0))
            file.flush()
            sync_fd(file.fileno(), packing)
        if any(one != other for one, other in zip_longest(_lines(packing), _lines(path))):
            raise OSError(f"{packing} does not read as it was written")
        packing.rename(path.with_suffix(".jsonl.gz"))
        sync_path(self._folder)
        path.unlink()
        return True

    def find_vanished(self, conn: Transaction) -> str:
        """What the journal has and the catalog lacks, in words; empty when nothing has gone."""
        last = self.last
        if last is None:
            return ""
        row = conn.execute("SELECT hash FROM ledger WHERE seq = ?", (last.seq,)).fetchone()
        if row is None:
            (newest,) = conn.execute("SELECT coalesce(max(seq), 0) FROM ledger").fetchone()
            return f"it has lost rows {newest + 1} to {last.seq} of the custody ledger"
        return "" if row[0] == last.hash else f"its custody ledger has another row {last.seq} than the journal"

    def write(self, conn: Transaction, limit: int = _BATCH) -> int:
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
            sync_fd(fd, path)
        except BaseException:
            self._is_searched = self._clean = False  # the next call finds out what the file has now
            raise
        finally:
            os.close(fd)
        if is_new:
            sync_path(self._folder)
            sync_path(self._folder.parent)


def _lines(path: Path) -> Iterator[bytes]:
    """Each line; of a packed file those of its whole members."""
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            yield from file
        return
    data, at = path.read_bytes(), 0
    while at >= 0:
        member = zlib.decompressobj(wbits=31)
        try:
            text = member.decompress(memoryview(data)[at:])
        except zlib.error:
            text = b""
        if text and member.eof:
            yield from BytesIO(text)
            at = len(data) - len(member.unused_data)
        else:
            at += 1
        at = data.find(_MEMBER, at)


def _last_lines(path: Path) -> list[bytes]:
    """Some of the last lines; the first of them may be the end of one."""
    if path.suffix == ".gz":
        return list(_lines(path))
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read().split(b"\n")[:-1]


def _cut_torn_line(fd: int) -> None:
    """A crash in the middle of a line: what is behind the last line end goes."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _TAIL, max(0, size - _TAIL))
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn:
        os.ftruncate(fd, size - torn)
