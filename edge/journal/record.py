"""Heads of records: encoded, decoded and verified. Pure; docs/journal.md has the format byte by byte."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import xxhash

from edge.errors import EdgeError, Permanent

BLOCK = 4096
RECORD_MAGIC = b"EDGEREC1"
RECORD_VERSION = 2
#: What names the file of a body that does not follow its head.
FILE_ID_BYTES = 16
#: A head is never longer: receive buffers keep this much room in front of the body.
MAX_HEAD_BYTES = 16 << 10
#: Code of the algorithm of a body's checksum: XXH3-128, 30 times as quick as SHA-256. It misses a random change in one
#: of 2^128 cases and is no protection from forgery. SHA-256 is read: bodies up to 64 KiB had it before. 2 was CRC-32,
#: before a release had the journal.
SHA256, XXH3 = 1, 3

_FIXED = struct.Struct("<8sHHLQ16sLLQLLLLQ16sQLL32s16s")
_SUM_AT = 144
_SUM_BYTES = 16
assert _FIXED.size == _SUM_AT + _SUM_BYTES

Bytes = bytes | bytearray | memoryview


class HeadTooLong(Permanent):
    """Facts and prefix do not fit the head: the caller leaves out what can be read from the body again."""


class UnknownFormat(EdgeError):
    """The journal was written by a newer version: it is left as it is, and nothing is dropped."""


@dataclass(frozen=True, slots=True, order=True)
class RecordIdentity:
    """What names a record, for good: no other record ever has the same."""

    generation: int
    index: int

    @property
    def name(self) -> str:
        """The name of the spool file, without its suffix; in the order of arrival."""
        return f"{self.generation:016x}{self.index:08x}"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The writer's segment before this one, and how many records were answered from it. `generation` 0: none."""

    generation: int = 0
    records: int = 0


NO_EARLIER = Earlier()


@dataclass(frozen=True, slots=True)
class RecordHead:
    """What the head of a record says. Lengths and offsets in bytes."""

    kind: int
    generation: int
    salt: bytes
    segment: int
    index: int
    offset: int
    body_length: int
    checksum: bytes
    algorithm: int
    facts: bytes = b""
    prefix: bytes = b""
    file: bytes = b""  # the name of the file that has the body; empty: it follows the head
    earlier: Earlier = NO_EARLIER

    @property
    def identity(self) -> RecordIdentity:
        return RecordIdentity(self.generation, self.index)

    @property
    def xxh3(self) -> bytes | None:
        """XXH3-128 of the body, where the head has that."""
        return self.checksum[:16] if self.algorithm == XXH3 else None

    @property
    def length(self) -> int:
        """The length of the head in bytes; a multiple of BLOCK."""
        return head_length(len(self.facts), len(self.prefix))

    @property
    def record_length(self) -> int:
        """The length of head, body and padding in its segment."""
        return self.length + (0 if self.file else pad_to_block(self.body_length))

    @property
    def end(self) -> int:
        """The place in its segment where the next record begins."""
        return self.offset + self.record_length


def pad_to_block(length: int) -> int:
    """Rounded up to whole blocks."""
    return -(-length // BLOCK) * BLOCK


def head_length(facts: int, prefix: int) -> int:
    """The length of a head with this number of bytes of facts and prefix. Raises HeadTooLong."""
    length = pad_to_block(_FIXED.size + facts + prefix)
    if length > MAX_HEAD_BYTES:
        raise HeadTooLong(f"the head of a record would take {length} bytes, {MAX_HEAD_BYTES} are the most")
    return length


class Checksum:
    """The checksum of a body that comes in parts."""

    def __init__(self, algorithm: int) -> None:
        self._running = hashlib.sha256() if algorithm == SHA256 else xxhash.xxh3_128()
        self.update = self._running.update

    def digest(self) -> bytes:
        """32 bytes."""
        return self._running.digest().ljust(32, b"\0")


def checksum(body: Bytes, algorithm: int = XXH3) -> bytes:
    """The checksum of a whole body: 32 bytes."""
    found = Checksum(algorithm)
    found.update(body)
    return found.digest()


def is_whole(head: RecordHead, body: Bytes) -> bool:
    """Are these the bytes that the head was written for?"""
    return len(body) == head.body_length and checksum(body, head.algorithm) == head.checksum


def encode_head(head: RecordHead) -> bytes:
    """The head as it goes to the disk. Raises HeadTooLong."""
    length = head.length
    whole = bytearray(length)
    _FIXED.pack_into(
        whole, 0,
        RECORD_MAGIC, RECORD_VERSION, head.kind, 0, head.generation, head.salt, head.segment, head.index, head.offset,
        length, len(head.facts), len(head.prefix), head.algorithm, head.body_length, head.file,
        head.earlier.generation, head.earlier.records, 0, head.checksum, bytes(_SUM_BYTES),
    )  # fmt: skip
    whole[_FIXED.size : _FIXED.size + len(head.facts)] = head.facts
    whole[length - len(head.prefix) :] = head.prefix
    whole[_SUM_AT : _SUM_AT + _SUM_BYTES] = hashlib.sha256(whole).digest()[:_SUM_BYTES]
    return bytes(whole)


def declared_length(block: Bytes) -> int:
    """How long the head says it is that begins with this block; 0 when no head begins so."""
    if len(block) < _FIXED.size or bytes(block[:8]) != RECORD_MAGIC:
        return 0
    length = int.from_bytes(block[56:60], "little")
    return length if length % BLOCK == 0 and BLOCK <= length <= MAX_HEAD_BYTES else 0


def body_bytes_in_slot(data: Bytes) -> int:
    """The length of the body behind the head that begins here, in bytes; nothing is verified."""
    return 0 if any(data[80:96]) else int.from_bytes(data[72:80], "little")


def decode_head(data: Bytes) -> RecordHead | None:
    """The head at the start of these bytes; None when it is not whole. Raises UnknownFormat."""
    length = declared_length(data)
    if not length or len(data) < length:
        return None
    whole = bytes(data[:length])
    if _head_sum(whole) != whole[_SUM_AT : _SUM_AT + _SUM_BYTES]:
        return None
    fields = _FIXED.unpack_from(whole)
    version, kind, flags, generation, salt, segment, index, offset = fields[1:9]
    facts, prefix, algorithm, body_length, file = fields[10:15]
    if version != RECORD_VERSION or algorithm not in (SHA256, XXH3) or flags:
        raise UnknownFormat(f"the journal has a record of format {version}.{algorithm}: go back to the newer version")
    return RecordHead(
        kind, generation, salt, segment, index, offset, body_length, fields[18], algorithm,
        whole[_FIXED.size : _FIXED.size + facts], whole[length - prefix :] if prefix else b"",
        file if any(file) else b"", Earlier(*fields[15:17]),
    )  # fmt: skip


def _head_sum(whole: bytes) -> bytes:
    digest = hashlib.sha256(whole[:_SUM_AT])
    digest.update(bytes(_SUM_BYTES))
    digest.update(whole[_SUM_AT + _SUM_BYTES :])
    return digest.digest()[:_SUM_BYTES]
