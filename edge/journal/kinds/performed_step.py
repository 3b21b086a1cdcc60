"""A message of a Modality Performed Procedure Step (PS3.4 section F.7.2): N-CREATE or N-SET, with its data set."""

from __future__ import annotations

import json
from dataclasses import dataclass

from edge.model import Origin

CODE = 3  # language: each kind has one


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """`operation`: "create" or "set"."""

    sop_instance_uid: str
    operation: str
    transfer_syntax_uid: str  # of the body
    origin: Origin
    modality: str = ""  # the [modality.NAME] that it came from


def encode(step: RecordedStep) -> bytes:  # language: each kind has one
    said = {
        "uid": step.sop_instance_uid,
        "operation": step.operation,
        "syntax": step.transfer_syntax_uid,
        "origin": step.origin.flat(),
        "modality": step.modality,
    }
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


def decode(facts: bytes) -> RecordedStep:  # language: each kind has one
    said = json.loads(facts)
    return RecordedStep(said["uid"], said["operation"], said["syntax"], Origin(*said["origin"]), said["modality"])
