"""The answer to a C-STORE: what a door says of an object, in DICOM's words."""

from __future__ import annotations

from dataclasses import dataclass

from edge.errors import Cause, Hindered, StorageFull, StorageUnhealthy, hindrance

# C-STORE statuses (PS3.4 table B.2-1).
_OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
#: An Error Comment is an LO (PS3.5 section 6.2).
MAX_COMMENT = 64


@dataclass(frozen=True, slots=True)
class StoreResponse:
    """The C-STORE status and its Error Comment (0000,0902)."""

    status: int
    comment: str = ""
    cause: Cause | None = None  # what hindered us, where it was that


def answer_for(error: Hindered | StorageUnhealthy | MemoryError) -> StoreResponse:
    """What a sender gets when we cannot take its object: Refused: Out of Resources (PS3.4 table B.2-1)."""
    if isinstance(error, StorageUnhealthy):
        return StoreResponse(_OUT_OF_RESOURCES, "storage is unhealthy", Cause.FAILED)
    cause, text = hindrance.cause_of(error), str(error)
    fits = isinstance(error, StorageFull) and len(text) <= MAX_COMMENT
    return StoreResponse(_OUT_OF_RESOURCES, text if fits else f"the gateway is {hindrance.words_of(cause)}", cause)
