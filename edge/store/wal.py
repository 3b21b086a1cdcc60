"""Integrity of a catalog: its log, frame by frame, its pages, and whether it exists.

SQLite cuts its write-ahead log silently at the first frame whose checksum is wrong, and whatever was committed behind
that is gone (https://www.sqlite.org/walformat.html, section 4.4). So the log is read here before SQLite reads it.

Limits: the last transaction of a log may have been torn by a crash, before it was acknowledged as durable; damage
there is indistinguishable from that.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from edge.errors import CatalogDamaged
from edge.store.faults import translate_errors
from edge.store.sqlite_file import PAGE_BYTES, connect


def lost_commits(path: Path) -> int:
    """How many committed transactions of a catalog's log SQLite cannot read any more, for bits in it are damaged.

    To be asked before anything else opens the file. SQLite cuts its log silently at the first frame whose checksum is
    wrong (walformat.html, section 4.4), and whatever was committed behind that is gone. One such transaction is no
    damage: a crash may have come while it was written, before it was acknowledged as durable.
    """
    wal, index = Path(f"{path}-wal"), Path(f"{path}-shm")
    if not path.exists() or not wal.exists() or wal.stat().st_size <= _WAL_HEADER.size:
        return 0
    with wal.open("rb") as file:
        rotten, page_size, salts = _read_wal_header(file)
        commits = list(_commits(file, page_size, salts))
    with translate_errors(path), closing(connect(path, read_only=True)) as conn:
        conn.execute("SELECT count(*) FROM sqlite_master").fetchone()  # SQLite reads its log now, frame by frame
        (readable,) = struct.unpack_from("=L", index.read_bytes(), 16)  # mxFrame of the wal-index header
    return len([number for number in commits if number > readable]) + int(rotten)


def is_gone(path: Path) -> bool:
    """Is a catalog not there, though its log is? (It is made before its log.)"""
    return not path.exists() and Path(f"{path}-wal").exists()


_WAL_HEADER = struct.Struct(">8L")  # magic, version, page size, checkpoint, 2 of salt, 2 of checksum
_FRAME_HEADER = struct.Struct(">6L")  # page, size of the database after a commit or 0, 2 of salt, 2 of checksum


def quick_check(path: Path, seconds: float) -> None:
    """Look for damaged pages of a catalog, if there is one, for some seconds. Raises CatalogDamaged."""
    if not path.exists():
        return
    with translate_errors(path), closing(connect(path, read_only=True)) as conn:
        timer = threading.Timer(seconds, conn.interrupt)  # a progress handler is not called while a tree is checked
        timer.start()
        try:
            (found,) = conn.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError:
            return  # its time is over
        finally:
            timer.cancel()
            timer.join()
    if found != "ok":
        raise CatalogDamaged(found)


def damaged_frame(path: Path, *, in_use: bool) -> int:
    """The first frame of a catalog's log whose bytes are not what was written, from 1; 0 when all are in order.

    While the gateway runs (`in_use`), its log restarts at times: then it is read again. While it does not, the
    last transaction may have been torn by a crash: that is no rot (see `lost_commits`).
    """
    for _ in range(3 if in_use else 1):
        first = _walk_log(Path(f"{path}-wal"), may_be_torn=not in_use)
        if not first:
            break
    return first


def _walk_log(wal: Path, *, may_be_torn: bool) -> int:
    try:
        data = wal.read_bytes()
    except FileNotFoundError:
        return 0
    if len(data) <= _WAL_HEADER.size or not any(data[: _WAL_HEADER.size]):
        return 0
    fields = _WAL_HEADER.unpack_from(data)
    order, sums = ">" if fields[0] & 1 else "<", _sums(data[:24], ">" if fields[0] & 1 else "<", (0, 0))
    if sums != fields[6:8]:
        return 1
    step = _FRAME_HEADER.size + fields[2]
    frames = list(range(_WAL_HEADER.size, len(data) - step + 1, step))
    live = {at for at in frames if struct.unpack_from(">2L", data, at + 8) == fields[4:6]}
    commits = sorted(at for at in live if struct.unpack_from(">L", data, at + 4)[0])
    for number, at in enumerate(frames, 1):
        if not commits or at > commits[-1]:
            return 0
        sums = _sums(data[at : at + 8], order, sums)
        sums = _sums(data[at + _FRAME_HEADER.size : at + step], order, sums)
        if at not in live or sums != struct.unpack_from(">2L", data, at + 16):
            torn = may_be_torn and commits[-2:-1] < [at]
            return 0 if torn else number
    return 0


def _sums(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's running checksum (walformat.html, section 4.2)."""
    one, two = sums
    for a, b in struct.iter_unpack(f"{order}2L", data):
        one = (one + a + two) & 0xFFFFFFFF
        two = (two + b + one) & 0xFFFFFFFF
    return one, two


def _read_wal_header(file: IO[bytes]) -> tuple[bool, int, tuple[int, ...]]:
    """Is it rotten? The page size, and the salts of the log's frames. A header of zeros was never written."""
    head = file.read(_WAL_HEADER.size)
    fields = _WAL_HEADER.unpack(head)
    if _sums(head[:24], ">" if fields[0] & 1 else "<", (0, 0)) == fields[6:8]:
        return False, fields[2], fields[4:6]
    first = _FRAME_HEADER.unpack(file.read(_FRAME_HEADER.size).ljust(_FRAME_HEADER.size, b"\0"))
    return any(head), PAGE_BYTES, first[2:4]


def _commits(file: IO[bytes], page_size: int, salts: tuple[int, ...]) -> Iterator[int]:
    """The numbers, from 1, of the frames that end a transaction, of those that belong to the log as it is now."""
    number, at = 1, _WAL_HEADER.size
    while head := os.pread(file.fileno(), _FRAME_HEADER.size, at):
        if len(head) < _FRAME_HEADER.size:
            return
        frame = _FRAME_HEADER.unpack(head)
        if frame[1] and frame[2:4] == salts:
            yield number
        number, at = number + 1, at + _FRAME_HEADER.size + page_size
