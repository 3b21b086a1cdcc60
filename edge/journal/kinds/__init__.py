"""Kinds of records: one file each, with its code, and its facts encoded and decoded. A new kind is a file and a line.

A code is never used for another kind. Facts are JSON in UTF-8, so that a person can read them without Edge.
"""

from __future__ import annotations

from types import ModuleType

from edge.journal.kinds import commitment_request, hl7_frame, instance, performed_step

#: Code -> module with CODE, encode(value) -> bytes, decode(bytes) -> value.
RECORD_KINDS: dict[int, ModuleType] = {
    kind.CODE: kind for kind in (instance, commitment_request, performed_step, hl7_frame)
}
