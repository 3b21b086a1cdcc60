"""The location of an instance that a C-MOVE or C-GET wants, as the answering process gives it to a door. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

#: Separates what is here from what is not.
ALL_HERE = b"{}"


@dataclass(frozen=True, slots=True)
class Located:
    """An instance that is wanted. `path`: below the spool; empty: it is at `archive`, or not readable yet."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_id: int = 0
    path: str = ""
    size: int = 0
    dataset_offset: int = 0
    sha256: str = ""
    xxh3: str = ""
    archive: str = ""  # the name of a destination
    study_uid: str = ""
    series_uid: str = ""
    is_outdated: bool = False  # its patient is another today than its header says: a corrected copy goes

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Located:
        return cls(**json.loads(data))
