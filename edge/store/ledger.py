"""The custody ledger: an append-only, hash-chained record of what happened to whom.

Each row's hash covers the hash before it, so that a changed or missing past shows. Rows are written in the
transaction of the change that they record: there is no change without its row and no row without its change.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.store.database import Connection

EDGE = "edge"

RECEIVED = "received"
CONFLICT = "conflict"
MISMATCH = "mismatch"  # the patient differs from those of the images before in the study
QUARANTINED = "quarantined"
ADOPTED = "adopted"
SENT = "sent"
CONFIRMED = "confirmed"
DENIED = "denied"
HELD = "held"
RELEASED = "released"
RETRIED = "retried"
ADMITTED = "admitted"  # a person let an instance out of quarantine
DISCARDED = "discarded"  # a person decided that an instance goes nowhere
DELETED = "deleted"  # the file of a discarded instance, after [quarantine] keep
EXPORTED = "exported"  # a person took a copy of an instance
EVICTED = "evicted"
LOST = "lost"
REPAIRED = "repaired"  # a damaged file was fetched again from a destination that had it
RECOVERED = "recovered"  # the catalog was rebuilt from the spool
CHANGED = "changed"  # a destination was sent a copy with other bytes
REFUSED = "refused"
VIEWED = "viewed"
REPORTED = "reported"  # the audit trail itself was read
OVERRIDDEN = "overridden"  # a person overrode what the rules or a check decided
SIGNED_IN = "signed-in"
CONFIGURED = "configured"
STARTED = "started"
STOPPED = "stopped"
SETTLED = "settled"
ROUTED = "routed"  # a further destination, beside those of the arrival
CANCELLED = "cancelled"  # a person decided that a delivery is not sent
RENAMED = "renamed"  # a destination has another name from now on; the detail is the old one

_GENESIS = bytes(32)


def append(
    conn: Connection,
    at: float,
    event: str,
    who: str,
    instances: Sequence[int],
    *,
    study_id: int | None = None,
    destination: str = "",
    detail: str = "",
) -> None:
    """Add one row, inside the caller's transaction. `at` in seconds since 1970."""
    last = conn.execute("SELECT hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    listed = str(list(instances))  # integers: this is JSON
    digest = row_hash(last[0] if last else _GENESIS, at, event, who, study_id, listed, destination, detail)
    conn.execute(
        "INSERT INTO ledger (at, event, who, study_id, instances, destination, detail, hash)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (at, event, who, study_id, listed, destination, detail, digest),
    )


def row_hash(
    before: bytes,
    at: float,
    event: str,
    who: str,
    study_id: int | None,
    instances: str,
    destination: str,
    detail: str,
) -> bytes:
    """SHA-256 that binds one row to the one before it."""
    return _digest(before, (at, event, who, study_id, instances, destination, detail))


def row_text(
    at: float, event: str, who: str, study_id: int | None, instances: str, destination: str, detail: str
) -> str:
    """What a row's hash covers beside the hash before it: anybody can do the sum again."""
    return _encode([at, event, who, study_id, instances, destination, detail])


#: One encoder for all: json.dumps would make one for each row.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _digest(before: bytes, told: Sequence[Any]) -> bytes:
    return hashlib.sha256(before + _encode(list(told)).encode()).digest()


@dataclass(frozen=True, slots=True)
class Head:
    """A row of the ledger, by number and hash: whoever keeps it elsewhere can show a rewritten past."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """From SEQ:HASH. Raises ValueError."""
        seq, _, digest = text.partition(":")
        if not seq.isascii() or not seq.isdigit() or not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise ValueError(f'"{text}"')
        return cls(int(seq), bytes.fromhex(digest))


def head(conn: Connection) -> Head:
    """The newest row; number 0 where there is none yet."""
    row = conn.execute("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(row[0], row[1]) if row else Head(0, _GENESIS)


def has(conn: Connection, kept: Head) -> bool:
    """Is a head that was kept elsewhere still in the ledger? Of a whole chain, it vouches for all that is before."""
    row = conn.execute("SELECT hash FROM ledger WHERE seq = ?", (kept.seq,)).fetchone()
    return row is not None and row[0] == kept.hash


@dataclass(frozen=True, slots=True)
class Broken:
    """The first row that does not follow from the one before it."""

    seq: int
    text: str


Tick = Callable[[int], None]
#: `tick` hears of the progress after so many rows.
TICK_ROWS = 10_000


def check(conn: Connection, after: int = 0, tick: Tick = lambda _: None, most: int = -1) -> Broken | None:
    """Follow the chain from behind row `after` to its end, in constant memory; None when it is whole.

    `most`: no further than so many rows; -1: to the end.

    Rows that are cut off its end show only by a head that was kept elsewhere (`has`).
    """
    cursor = conn.cursor()
    cursor.row_factory = None  # plain tuples: a million rows in seconds
    found = cursor.execute("SELECT hash FROM ledger WHERE seq = ?", (after,)).fetchone()
    if after and found is None:
        return Broken(after, "the row is missing")
    before, expected = found[0] if found else _GENESIS, after + 1
    rows = cursor.execute(
        "SELECT seq, hash, at, event, who, study_id, instances, destination, detail FROM ledger WHERE seq > ?"
        " ORDER BY seq LIMIT ?",
        (after, most),
    )
    for seq, digest, *told in rows:
        if seq != expected:
            gone = f"row {expected} is" if seq == expected + 1 else f"rows {expected} to {seq - 1} are"
            return Broken(seq, f"{gone} missing before it")
        if not _follows(before, told, digest):
            return Broken(seq, "the row is not what was written after the one before it")
        before, expected = digest, expected + 1
        if seq % TICK_ROWS == 0:
            tick(seq)
    return None


def _follows(before: bytes, told: Sequence[Any], digest: object) -> bool:
    try:
        return _digest(before, told) == digest
    except TypeError:
        return False  # a value of a kind that is never written


def first_broken(conn: Connection) -> int | None:
    """The number of the first row that does not follow from those before it; None when the chain is whole."""
    broken = check(conn)
    return broken.seq if broken else None
