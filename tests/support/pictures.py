"""PNG pictures as numpy arrays, read by hand: what Edge draws, and what a test makes up."""

from __future__ import annotations

import zlib
from struct import unpack
from typing import Any

import numpy as np


def decode_png(data: bytes) -> Any:
    """The pixels of a PNG of eight bits whose rows have no filter: (rows, columns) or (rows, columns, 3)."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, head, packed = 8, b"", b""
    while at < len(data):
        (length,), name = unpack(">L", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        (checksum,) = unpack(">L", data[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(name + body)
        head = body if name == b"IHDR" else head
        packed += body if name == b"IDAT" else b""
        at += 12 + length
    columns, rows, bits, kind = unpack(">LLBB", head[:10])
    assert (bits, kind) in ((8, 0), (8, 2))
    samples = 3 if kind == 2 else 1
    lines = np.frombuffer(zlib.decompress(packed), "u1").reshape(rows, 1 + columns * samples)
    assert not lines[:, 0].any()
    pixels = lines[:, 1:].reshape(rows, columns, samples)
    return pixels if samples == 3 else pixels[..., 0]
