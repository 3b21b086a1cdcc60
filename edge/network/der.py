"""A reader of DER (X.690): as much of it as certificates and revocation lists need."""

from __future__ import annotations

from collections.abc import Iterator


def read_values(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The values that follow each other: (tag, content). Raises ValueError for damage."""
    at = 0
    while at < len(der):
        head = der[at : at + 2]
        if len(head) < 2:
            raise ValueError("damaged DER")
        tag, length, at = head[0], head[1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(der[at : at + count], "big"), at + count
        if at + length > len(der):
            raise ValueError("damaged DER")
        yield tag, der[at : at + length]
        at += length
