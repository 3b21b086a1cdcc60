"""The meaning of a heartbeat beside the known ones, as pure decisions: by its number, ledger and clock.

Numbers are consecutive per site, always. A number above all others is new; one that was missed fills its gap; one that
came before is the same again (a sender that lost our answer) or a fault. A site whose catalog was rebuilt begins at
one again: it differs from a replay by a later time under a new boot, which nobody without the key can write.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edge.central.heartbeat import ReceivedHeartbeat

#: A site is silent when it has missed this number of heartbeats.
MISSED = 3
#: A clock that is so far ahead of ours is wrong (seconds).
SKEW_SECONDS = 300.0


class SequenceResult(str, Enum):
    """What to do with a heartbeat, by its number."""

    NEW = "new"
    FILLED = "filled"  # a missing one has come late
    AGAIN = "again"  # we have it
    RESTARTED = "restarted"  # the site restarted its count
    REUSED = "reused"  # another one has this number: refused


@dataclass(frozen=True, slots=True)
class LatestHeartbeat:
    """The latest heartbeat of a site."""

    number: int
    at: float
    boot: str
    seq: int
    head: str


@dataclass(frozen=True, slots=True)
class Down:
    """A time in which a site did not run."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def classify(
    heartbeat: ReceivedHeartbeat, known: LatestHeartbeat | None, digest: str | None, missing: bool
) -> SequenceResult:
    """`digest` is that of the heartbeat which had this number; `missing`: nothing had it yet."""
    if known is None or heartbeat.number > known.number:
        return SequenceResult.NEW
    if digest == heartbeat.digest:
        return SequenceResult.AGAIN
    if heartbeat.boot != known.boot and heartbeat.at > known.at:
        return SequenceResult.RESTARTED
    if missing:
        return SequenceResult.FILLED
    return SequenceResult.AGAIN if digest is None else SequenceResult.REUSED


def rewritten(heartbeat: ReceivedHeartbeat, known: LatestHeartbeat) -> str:
    """How the custody ledger contradicts what it said before; empty where it does not."""
    if heartbeat.seq < known.seq:
        return f"the ledger went back from entry {known.seq} to {heartbeat.seq}"
    if heartbeat.seq == known.seq and heartbeat.head != known.head:
        return f"the ledger's entry {heartbeat.seq} has another head than before"
    return ""


def skew(at: float, now: float) -> float:
    """Seconds by which a site's clock is ahead of ours beyond doubt; 0 for late ones, which may have waited."""
    return at - now if at - now > SKEW_SECONDS else 0.0


def down_between(
    known: LatestHeartbeat, heartbeat: ReceivedHeartbeat, uptime: float, interval: float, missed: int
) -> Down | None:
    """The time in which the site did not run, between two heartbeats that follow each other.

    One run of the daemon (boot) is no downtime, however long nothing came; a quick restart is none either.
    """
    begin, end = known.at, min(heartbeat.at, heartbeat.at - uptime)
    if heartbeat.boot == known.boot or end - begin <= missed * interval:
        return None
    return Down(begin, end)


def agrees(measured: Down, reported: Down, interval: float) -> bool:
    """Do two reports of one downtime agree? The last sign of life is up to an interval older here."""
    return abs(measured.begin - reported.begin) <= interval + 15 and abs(measured.end - reported.end) <= 15
