"""Where the rows play: one work directory on a real disk, made objects in it, and empty places to measure in."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.support.objects import ct_files

#: Objects lie in so many folders, which the senders share out among them.
PARTS = 8
KIB, MIB, GB = 1 << 10, 1 << 20, 1_000_000_000


@dataclass(frozen=True)
class Objects:
    """Made CT slices of one size."""

    folders: tuple[Path, ...]
    count: int
    bytes: int  # of the files

    @property
    def gigabytes(self) -> float:
        return self.bytes / GB

    def files(self) -> list[Path]:
        return sorted(path for folder in self.folders for path in folder.iterdir())


class Stage:
    """A context manager: all that was made is removed at the end. `quick`: fewer objects, to try the program itself."""

    def __init__(self, parent: Path, quick: bool = False) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.quick = quick
        self.root = Path(tempfile.mkdtemp(prefix="work-", dir=parent.resolve()))
        self._made: dict[tuple[int, int, int], Objects] = {}

    def few(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def objects(self, count: int, size: int, series: int = PARTS) -> Objects:
        """So many slices of about `size` bytes, in so many series; made once, in the page cache, and never changed."""
        if (count, size, series) not in self._made:
            home = self.root / f"objects-{count}-{size}-{series}"
            shares = [count // series + (part < count % series) for part in range(series)]
            paths = [p for part, n in enumerate(shares) if n for p in ct_files(home / f"{part}", n, size)]
            folders = tuple(sorted({path.parent for path in paths}))
            self._made[count, size, series] = Objects(folders, count, sum(path.stat().st_size for path in paths))
            os.sync()
        return self._made[count, size, series]

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A directory that `make` has filled; made once."""
        path = self.root / name
        if not path.exists():
            path.mkdir()
            make(path)
            os.sync()
        return path

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """An empty directory, removed afterwards; the disk owes nothing when the next one begins."""
        path = Path(tempfile.mkdtemp(prefix="run-", dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path)
            os.sync()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        shutil.rmtree(self.root)


def file_system(path: Path) -> str:
    """The type of the file system that a path lies on, as `df` names it."""
    done = subprocess.run(["df", "--output=fstype", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]
