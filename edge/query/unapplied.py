"""Instances that were answered and are not in the catalog yet: waited for briefly, else read from the journal.

Only heads of records are read, and entered into a catalog in memory, by the code that fills the catalog itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge.dicom.header import HeaderSearch, read_at, read_header
from edge.errors import Unreadable
from edge.journal import segment
from edge.journal.control import RingControl, SegmentState
from edge.journal.kinds import instance
from edge.journal.record import BLOCK, RecordHead
from edge.journal.replay import JournalRecord, SegmentReader
from edge.model import ContextKey, InstanceHeader
from edge.spool import Stored
from edge.store import catalog
from edge.store.database import Transaction
from edge.store.sqlite_file import open_empty_catalog

#: Records that are read for one query at most.
MOST_UNAPPLIED = 50_000
_HELD = (SegmentState.REPLAY, SegmentState.OPEN, SegmentState.CLOSED, SegmentState.POISONED)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far each segment was written at a moment: number, generation, records."""

    written: tuple[tuple[int, int, int], ...]


class JournalView:
    """The journal, for a process that reads it beside those that write and apply it."""

    def __init__(self, folder: Path, control: RingControl) -> None:
        self.folder, self._control = folder, control

    def mark(self) -> Mark:
        """What has been answered by now."""
        control = self._control
        numbers = control.numbers(*_HELD)
        return Mark(tuple((each, control.generation(each), control.written_count(each)) for each in numbers))

    def is_applied(self, mark: Mark) -> bool:
        """Is all that in the catalog?"""
        control = self._control
        return all(
            control.generation(number) != generation
            or (control.state(number) is not SegmentState.REPLAY and control.applied_count(number) >= records)
            for number, generation, records in mark.written
        )

    def list_heads(self, applied: Mapping[int, int]) -> Iterator[RecordHead]:
        """The heads of the objects that are not applied. `applied`: by generation, as the catalog has it."""
        for number in self._control.numbers(*_HELD):
            generation = self._control.generation(number)
            is_earlier = self._control.state(number) is SegmentState.REPLAY
            upto = MOST_UNAPPLIED if is_earlier else self._control.written_count(number)
            if applied.get(generation, 0) < upto:
                with suppress(OSError):  # it is recycled meanwhile: all of it is applied
                    yield from self._heads_of(self.folder / segment.file_name(number), applied, upto)

    @staticmethod
    def uids_of(heads: Iterable[RecordHead]) -> list[str]:
        """The SOP Instance UIDs of these objects."""
        return [instance.decode(each.facts).header.sop_instance_uid for each in heads]

    def _heads_of(self, path: Path, applied: Mapping[int, int], upto: int) -> Iterator[RecordHead]:
        header = segment.read_segment_header(path)
        if header is None:
            return
        reader, offset = SegmentReader(path, header), BLOCK
        try:
            for index in range(upto):
                head = reader.head_at(offset, tries=1)
                if head is None or head.index != index:
                    return
                offset += head.record_length
                if index >= applied.get(header.generation, 0) and head.kind == instance.CODE:
                    yield head
        finally:
            reader.close()


class Overlay:
    """A catalog in memory, of objects that the catalog itself does not have yet."""

    def __init__(self) -> None:
        self._conn = open_empty_catalog()
        self._lock = threading.Lock()
        self.count = 0

    def add(self, head: RecordHead, header: InstanceHeader) -> None:
        name, size = head.identity.name, len(head.prefix) + head.body_length
        stored = Stored(name, size, len(head.prefix), name.encode(), xxh3=head.xxh3)
        with self._lock:
            self.count += 1
            catalog.add(self._conn, header, stored, "")

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        with self._lock:
            yield self._conn


def build_overlay(folder: Path, heads: Sequence[RecordHead], known: set[str], search: HeaderSearch) -> Overlay:
    """Build a catalog of the unapplied objects whose SOP Instance UID is not `known` to the catalog."""
    overlay = Overlay()
    for head in heads:
        found = instance.decode(head.facts)
        if not found.is_readable or found.header.sop_instance_uid in known:
            continue
        try:
            header = found.header if found.has_attributes else _reread(folder, head, found.header, search)
            overlay.add(head, header)
        except (Unreadable, OSError):
            continue  # apply decides what becomes of it
    return overlay


def _reread(folder: Path, head: RecordHead, header: InstanceHeader, search: HeaderSearch) -> InstanceHeader:
    path, offset, _ = JournalRecord(folder, head).part10
    begin = offset + len(head.prefix)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        context_key = ContextKey(header.sop_class_uid, header.transfer_syntax_uid)
        return read_header(
            read_at(fd, begin),
            head.body_length,
            context_key,
            header.sop_instance_uid,
            header.origin,
            search,
        )
    finally:
        os.close(fd)
