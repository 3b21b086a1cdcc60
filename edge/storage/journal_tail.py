"""The journal's tail: what was answered and is not in the catalog yet. Reads only; for where no gateway runs.

Failure: EdgeError where the journal cannot be read, or was written by a newer version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError
from edge.journal import segment
from edge.journal.kinds import instance
from edge.journal.replay import BodyDamaged, JournalRecord, RecordDamage, Replay
from edge.journal.ring import JOURNAL_FOLDER


@dataclass(frozen=True, slots=True)
class RecordedObject:
    """An object that the next start stores. `study_uid`: empty where only its data set says it."""

    record: str
    study_uid: str
    sop_instance_uid: str
    received_at: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Tail:
    objects: tuple[RecordedObject, ...] = ()
    damaged: tuple[str, ...] = ()  # the names of records that are not what was received


def read_tail(data_dir: Path, applied: Mapping[int, int]) -> Tail:
    """All beyond what is applied (edge.store.journal_progress), each body verified. Raises EdgeError."""
    folder, objects, damaged = data_dir / JOURNAL_FOLDER, [], []
    try:
        for item in Replay(folder, applied) if folder.is_dir() else ():
            if isinstance(item, RecordDamage) or not _is_whole(item, data_dir / "spool"):
                damaged.append(item.identity.name)
            elif item.head.kind == instance.CODE:
                objects.append(_object_of(item))
    except OSError as error:
        raise EdgeError(f"the journal in {folder} cannot be read: {error.strerror or error}") from None
    return Tail(tuple(objects), tuple(damaged))


def has_unapplied(data_dir: Path, applied: Mapping[int, int]) -> bool:
    """Is there any record beyond what is applied, of whatever kind, whole or not? Raises EdgeError, OSError."""
    folder = data_dir / JOURNAL_FOLDER
    return folder.is_dir() and any(True for _ in Replay(folder, applied))


def _is_whole(record: JournalRecord, spool: Path) -> bool:
    """Is the body whole? The replay has checked one that follows its head. A file may be in the spool already."""
    if not record.head.file:
        return True
    moved = () if record.part10[0].exists() else spool.glob(f"*/{record.identity.name}.dcm")
    try:
        for _ in record.bodies(next(iter(moved), None)):
            pass
    except BodyDamaged:
        return False
    return True


def _object_of(record: JournalRecord) -> RecordedObject:
    header = instance.decode(record.head.facts).header
    study = header.first("StudyInstanceUID")
    return RecordedObject(record.identity.name, study, header.sop_instance_uid, header.origin.received_at)


def list_damaged_files(data_dir: Path) -> list[str]:
    """Parts of the journal that were put aside for a person."""
    return sorted(path.name for path in (data_dir / JOURNAL_FOLDER).glob(f"*{segment.DAMAGED_SUFFIX}"))
