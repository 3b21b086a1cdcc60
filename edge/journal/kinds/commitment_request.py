"""A modality's request for storage commitment (PS3.4 section J.3.2). The body is the N-ACTION's data set."""

from __future__ import annotations

import json
from dataclasses import dataclass

from edge.model import Origin

CODE = 2  # language: each kind has one


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """Which references it has, the body says."""

    transaction_uid: str
    transfer_syntax_uid: str  # of the body
    origin: Origin
    modality: str = ""  # the [modality.NAME] that it came from
    is_tls: bool = False


def encode(request: CommitmentRequest) -> bytes:  # language: each kind has one
    said = {
        "transaction": request.transaction_uid,
        "syntax": request.transfer_syntax_uid,
        "origin": request.origin.flat(),
        "modality": request.modality,
        "tls": request.is_tls,
    }
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


def decode(facts: bytes) -> CommitmentRequest:  # language: each kind has one
    said = json.loads(facts)
    origin = Origin(*said["origin"])
    return CommitmentRequest(said["transaction"], said["syntax"], origin, said["modality"], said["tls"])
