"""Every error that Edge raises on purpose.

One root. `Transient` ends by itself and is tried again; `Permanent` needs a person. The text of an error names the
operation, the subject, the cause and, where there is one, what to do; it never carries a patient's data.
"""

from __future__ import annotations

import traceback
from enum import Enum


class Cause(str, Enum):
    """What hinders the gateway. A code: edge.errors.hindrance finds it and has its text."""

    DESCRIPTORS = "descriptors"
    MEMORY = "memory"
    THREADS = "threads"
    PLACES = "places"  # associations at once
    BUSY = "busy"
    LOCKED = "locked"  # the catalog, by another process
    BYTES = "bytes"
    INODES = "inodes"
    QUOTA = "quota"
    FILE_SIZE = "file-size"
    LINKS = "links"
    READ_ONLY = "read-only"
    UNKNOWN_ROOM = "unknown-room"  # the file system does not report how full it is
    FAILED = "failed"  # a write or a sync of stored data


class EdgeError(Exception):
    """Root of all errors raised on purpose."""


class Transient(EdgeError):
    """Ends by itself: the work is deferred and tried again."""


class Permanent(EdgeError):
    """Does not end by itself: the work is held until a person decides."""


class ConfigError(Permanent):
    """The configuration cannot be used. `problems` holds one line for each fault, all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StorageUnhealthy(Permanent):
    """A sync or a commit failed: what the disk holds is unknown, so nothing more is accepted until a restart."""


class CommitInDoubt(StorageUnhealthy):
    """A commit failed: whether it has happened is known only after a restart."""


class CatalogDamaged(StorageUnhealthy):
    """The catalog's file is not as it was written. `found`: the database's report."""

    def __init__(self, found: str) -> None:
        super().__init__(f"the catalog is damaged ({found}): stop the gateway, `edge recover`, start it")
        self.found = found


class CatalogError(Permanent):
    """The database refuses a statement or a value, or a page could not be read; nothing of it was written."""


class NewerCatalog(CatalogError):
    """The catalog has a schema that this release does not know; nothing of it was written."""


class Hindered(Transient):
    """The gateway cannot do it now; the object and the peer are not the cause. `cause`: why.

    `is_in_doubt`: a commit failed, and a crash before the next one could still bring its rows: keep their files.
    """

    def __init__(self, text: str, cause: Cause = Cause.BUSY, *, is_in_doubt: bool = False) -> None:
        super().__init__(text)
        self.cause, self.is_in_doubt = cause, is_in_doubt


class StorageFull(Hindered):
    """No room for more objects; receiving resumes by itself when retention or a person has freed some."""

    def __init__(self, text: str, cause: Cause = Cause.BYTES, *, is_in_doubt: bool = False) -> None:
        super().__init__(text, cause, is_in_doubt=is_in_doubt)


class Shortage(Hindered):
    """Something is used up or busy that becomes free by itself: descriptors, memory, threads, a lock."""


class Unreadable(Permanent):
    """The header of an object cannot be read; the text has place and cause."""


class PeerError(Transient):
    """The peer or the network failed: refused, reset, silent, aborted, or not speaking DICOM."""

    #: The peer answers, and refuses what it is sent.
    refuses = False


class AssociationRejected(PeerError):
    """The peer answered A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""

    refuses = True

    def __init__(self, text: str, result: int, source: int, reason: int) -> None:
        super().__init__(text)
        self.result, self.source, self.reason = result, source, reason


class Unavailable(PeerError):
    """The peer answers that it takes nothing from us now. `seconds`: when to ask again, where that is known."""

    refuses = True

    def __init__(self, text: str, seconds: float | None = None) -> None:
        super().__init__(text)
        self.seconds = seconds


class ProtocolError(PeerError):
    """The peer sent what PS3.7 or PS3.8 does not allow, or more, or more slowly, than our limits allow."""


class ReportRefused(Permanent):
    """A report of storage commitment came from another peer than the archive that it concerns."""


class TransformError(Permanent):
    """An object cannot be converted without loss to what the destination takes."""


def place_of(error: BaseException) -> str:
    """The place of a fault of ours, without the exception's own text: it could quote an object."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
