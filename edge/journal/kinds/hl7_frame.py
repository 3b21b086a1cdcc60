"""The record of one MLLP frame: an HL7 message, or a batch. The body is its bytes as they came.

It is decoded, split and read again by apply, with what the feed was then: `authority` and `charset`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

CODE = 4  # language: each kind has one


@dataclass(frozen=True, slots=True)
class Hl7Frame:
    """Where a frame came from, and when it was whole."""

    feed: str  # the [feed.NAME]
    address: str
    received_at: float
    authority: str = ""
    charset: str = ""
    is_tls: bool = False


def encode(frame: Hl7Frame) -> bytes:  # language: each kind has one
    return json.dumps(asdict(frame), ensure_ascii=False, separators=(",", ":")).encode()


def decode(facts: bytes) -> Hl7Frame:  # language: each kind has one
    return Hl7Frame(**json.loads(facts))
