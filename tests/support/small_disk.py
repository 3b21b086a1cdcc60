"""A small file system of a test's own, to be filled to the last byte or inode. Needs root."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.peers import absent, run

MIB = 1 << 20


@contextmanager
def small_disk(directory: Path, mib: int = 48, kind: str = "ext4", *options: str) -> Iterator[Path]:
    """Mounted at `directory`/disk; `options` are those of its mkfs."""
    if os.geteuid() != 0:
        absent("root, to mount a small file system")
    image, mount = directory / "disk.img", directory / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    more = ["-m", "0"] if kind == "ext4" else []
    run([f"mkfs.{kind}", "-q", *more, *options, str(image)])
    run(["mount", "-o", "loop", str(image), str(mount)])
    try:
        yield mount
    finally:
        run(["umount", "--lazy", str(mount)])


def fill_bytes(disk: Path) -> Path:
    """Take every byte. Returns the file that has them."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            _until_full(lambda size=size: file.write(bytes(size)))  # type: ignore[misc]
        os.fsync(file.fileno())
    return filler


def fill_inodes(disk: Path) -> Path:
    """Take every inode. Returns the folder that has them."""
    folder = disk / "names"
    folder.mkdir()

    def touch() -> None:
        (folder / secrets.token_hex(8)).touch()

    _until_full(touch)
    return folder


def _until_full(work: Callable[[], object]) -> None:
    while True:
        try:
            work()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return
            raise
