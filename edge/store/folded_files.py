"""The yearly files: what was evicted long ago, readable without Edge (`zcat folded/2024.jsonl.gz`).

    folded/<year>.jsonl.gz   blocks, one behind the other; each is a gzip member (RFC 1952) of lines of JSON:
                             {"block": 1, "year": 2024, "before": SHA-256 of the block before, or ""},
                             one line for each study, in the order of their Study Instance UIDs,
                             {"sha256": that of the lines before this one}

The year is that in which the study last received something, UTC. A block is written, synced and read again before the
catalog refers to it. What is behind the last block that the catalog knows is of a run that was interrupted: its rows
are still in the catalog, and the next block takes its place. Bytes that the catalog refers to never change.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import Permanent
from edge.store.database import Transaction
from edge.store.sqlite_file import sync_fd, sync_path

FOLDER = "folded"
FORMAT = 1

#: What is kept of one study.
Record = Mapping[str, Any]


class DamagedFold(Permanent):
    """A yearly file is not what was written."""


@dataclass(frozen=True, slots=True)
class Block:
    """The place of some studies in a yearly file."""

    year: int
    position: int
    length: int  # bytes
    sha256: bytes


class FoldedFiles:
    """The folder of the yearly files in a data directory; one thread writes."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / FOLDER

    def path(self, year: int) -> Path:
        return self.folder / f"{year:04}.jsonl.gz"

    def years(self) -> list[int]:
        return sorted(int(each.name[:4]) for each in self.folder.glob("[0-9][0-9][0-9][0-9].jsonl.gz"))

    def append(self, last: Block | None, year: int, records: Sequence[Record]) -> Block:
        """Write a block behind `last`, the year's last that the catalog refers to; durable when this returns.

        Raises OSError, after which it may be tried again; StorageUnhealthy where a sync failed; DamagedFold.
        """
        packed = _pack(year, records, last.sha256.hex() if last else "")
        position = last.position + last.length if last else 0
        is_new = not self.path(year).exists()
        if is_new:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self.path(year), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < position:
                raise DamagedFold(f"{self.path(year)} is shorter than the catalog says: {position} bytes")
            os.ftruncate(fd, position)
            _write(fd, packed, position)
            sync_fd(fd, self.path(year))
        finally:
            os.close(fd)
        if is_new:
            sync_path(self.folder)
            sync_path(self.folder.parent)
        block = Block(year, position, len(packed), hashlib.sha256(packed).digest())
        if len(self.read(block)) != len(records):
            raise DamagedFold(f"{self.path(year)} does not read as it was written")
        return block

    def read(self, block: Block) -> list[dict[str, Any]]:
        """The studies of a block. Raises DamagedFold."""
        return _unpack(self.read_packed(block), self.path(block.year))

    def read_packed(self, block: Block) -> bytes:
        """The bytes of a block, which are those that were written. Raises DamagedFold."""
        try:
            with self.path(block.year).open("rb") as file:
                file.seek(block.position)
                packed = file.read(block.length)
        except OSError as error:
            raise DamagedFold(f"{self.path(block.year)} cannot be read: {error.strerror}") from None
        if hashlib.sha256(packed).digest() != block.sha256:
            raise DamagedFold(f"{self.path(block.year)} is not what was written at byte {block.position}")
        return packed

    def blocks(self, year: int) -> Iterator[tuple[Block, list[dict[str, Any]]]]:
        """What of a year's file is whole, without the catalog: up to the first block that does not follow."""
        data, position, before = self.path(year).read_bytes(), 0, ""
        while position < len(data):
            member = zlib.decompressobj(wbits=31)
            try:
                member.decompress(data[position:])
                packed = data[position : len(data) - len(member.unused_data)]
                studies = _unpack(packed, self.path(year), before)
            except (zlib.error, DamagedFold):
                return
            digest = hashlib.sha256(packed).digest()
            yield Block(year, position, len(packed), digest), studies
            position, before = position + len(packed), digest.hex()


def files_beside(conn: Transaction) -> FoldedFiles:
    """The yearly files in the data directory of a catalog."""
    return FoldedFiles(
        Path(conn.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()[0]).parent
    )


def _pack(year: int, records: Sequence[Record], before: str) -> bytes:
    lines = [_line({"block": FORMAT, "year": year, "before": before})]
    lines += [_line(each) for each in sorted(records, key=lambda each: str(each["study_uid"]))]
    text = b"".join(lines)
    return gzip.compress(text + _line({"sha256": hashlib.sha256(text).hexdigest()}), mtime=0)


def _unpack(packed: bytes, path: Path, before: str | None = None) -> list[dict[str, Any]]:
    """`before`: the digest of the block before, where it is known."""
    try:
        text = gzip.decompress(packed)
        lines = text.splitlines(keepends=True)
        head, foot = json.loads(lines[0]), json.loads(lines[-1])
        records = [json.loads(line) for line in lines[1:-1]]
    except (ValueError, IndexError, EOFError, OSError, zlib.error):
        raise DamagedFold(f"{path} holds a block that cannot be read") from None
    if foot.get("sha256") != hashlib.sha256(b"".join(lines[:-1])).hexdigest() or head.get("block") != FORMAT:
        raise DamagedFold(f"{path} holds a block that is not what was written")
    if before is not None and head.get("before") != before:
        raise DamagedFold(f"{path} holds a block that does not follow from the one before it")
    return records


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _write(fd: int, data: bytes, position: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], position + done)
