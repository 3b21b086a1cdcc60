"""Every error that Edge raises on purpose.

One root. `Transient` heals by itself and is tried again; `Permanent` needs a person. The text of an error names the
operation, the subject, the cause and, where there is one, what to do; it never carries a patient's data.
"""

from __future__ import annotations

import traceback


class EdgeError(Exception):
    """Root of all errors raised on purpose."""


class Transient(EdgeError):
    """Will heal by itself: the work is deferred and tried again."""


class Permanent(EdgeError):
    """Will not heal by itself: the work is held until a person decides."""


class ConfigError(Permanent):
    """The configuration cannot be used. `problems` holds one line for each fault, all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StorageUnhealthy(Permanent):
    """A sync or a commit failed: what the disk holds is unknown, so nothing more is accepted until a restart."""


class CommitInDoubt(StorageUnhealthy):
    """A commit failed: whether it has happened is known only after a restart."""


class StorageFull(Transient):
    """No room for more objects; receiving resumes by itself when retention or a person has freed some."""


class Unreadable(Permanent):
    """The header of an object cannot be read; the text says where and why."""


class PeerError(Transient):
    """The peer or the network failed: refused, reset, silent, aborted, or not speaking DICOM."""


class AssociationRejected(PeerError):
    """The peer answered A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""

    def __init__(self, text: str, result: int, source: int, reason: int) -> None:
        super().__init__(text)
        self.result, self.source, self.reason = result, source, reason


class ProtocolError(PeerError):
    """The peer sent what PS3.7 or PS3.8 does not allow, or more, or more slowly, than our limits allow."""


class ReportRefused(Permanent):
    """A report of storage commitment came from somebody else than the archive that was asked."""


class TransformError(Permanent):
    """An object cannot be converted without loss to what the destination takes."""


def place_of(error: BaseException) -> str:
    """Where a fault of ours happened, without the exception's own words: they could quote an object."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
