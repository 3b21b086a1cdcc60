"""A folder that is watched, `[drop.NAME]`: a dental sensor or a camera writes files, and they are imported.

A file is taken once it has kept its size and time for `quiet`. What is staged is removed from the folder if it has not
changed meanwhile; what cannot be used is moved into its folder `refused`, with the folder that it is in, so that nobody
has to guess. Names that begin with "." are passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

REFUSED_FOLDER = "refused"


@dataclass(slots=True)
class DropFolder:
    """What is known of the files of one folder."""

    path: Path
    quiet: float  # seconds
    _seen: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict)  # name -> (what, since when)

    def list_ready(self, now: float) -> list[Path]:
        """List the files and folders that have not changed for a while. Raises OSError where the folder is gone."""
        ready, found = [], {}
        for name in sorted(os.listdir(self.path)):
            path = self.path / name
            if name.startswith(".") or name == REFUSED_FOLDER or (marks := _marks(path)) is None:
                continue
            before = self._seen.get(name)
            since = before[1] if before is not None and before[0] == marks else now
            found[name] = (marks, since)
            if now - since >= self.quiet:
                ready.append(path)
        self._seen = found
        return ready


def _marks(path: Path) -> tuple[int, int] | None:
    """What changes while a file, or a folder with its files, is written; None: it is neither."""
    try:
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            return found.st_size, found.st_mtime_ns
        if stat.S_ISDIR(found.st_mode):
            below = [each.lstat() for each in path.rglob("*")]
            return sum(each.st_size for each in below), max((each.st_mtime_ns for each in below), default=0)
    except OSError:
        pass
    return None


#: Size and time of each file.
FileMarks = Mapping[Path, tuple[int, int]]


def mark_files(path: Path) -> FileMarks:
    """What changes when somebody writes: of a file, or of each file in a folder. Raises OSError."""
    if not path.is_dir():
        return {path: _file_marks(path)}
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return {each: _file_marks(each) for each in found}


def _file_marks(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_size, found.st_mtime_ns


def remove_unchanged(path: Path, marks: FileMarks) -> None:
    """Remove the files that have not changed, and folders that are empty then; what came meanwhile is read next."""
    for each, before in marks.items():
        with suppress(FileNotFoundError):
            if _file_marks(each) == before:
                each.unlink()
    for folder, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):  # it is not empty
            os.rmdir(folder)


def put_aside(folder: Path, path: Path) -> None:
    """Move what cannot be used into the folder `refused`, beside what is there under that name."""
    refused = folder / REFUSED_FOLDER
    refused.mkdir(mode=0o700, exist_ok=True)
    target, number = refused / path.name, 1
    while target.exists():
        target, number = refused / f"{number}-{path.name}", number + 1
    path.rename(target)


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with what is in it; links are removed, and not followed."""
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            remove_path(each)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
