"""The custody ledger: an append-only, hash-chained record of what happened to whom.

Each row's hash covers the hash before it, so that a changed or missing past shows. Rows are written in the
transaction of the change that they record: there is no change without its row and no row without its change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from edge.db import Connection

EDGE = "edge"

RECEIVED = "received"
CONFLICT = "conflict"
QUARANTINED = "quarantined"
ADOPTED = "adopted"
SENT = "sent"
CONFIRMED = "confirmed"
DENIED = "denied"
HELD = "held"
RELEASED = "released"
RETRIED = "retried"
EVICTED = "evicted"
LOST = "lost"
REPAIRED = "repaired"  # a damaged file was fetched again from a destination that had it
RECOVERED = "recovered"  # the catalog was rebuilt from the spool
CHANGED = "changed"  # a destination was sent a copy with other bytes
ROUTED = "routed"
REFUSED = "refused"
VIEWED = "viewed"
OVERRIDDEN = "overridden"  # a person overrode what the rules or a check decided
SIGNED_IN = "signed-in"
CONFIGURED = "configured"
STARTED = "started"
STOPPED = "stopped"
SETTLED = "settled"

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
    told = json.dumps([at, event, who, study_id, instances, destination, detail], separators=(",", ":"))
    return hashlib.sha256(before + told.encode()).digest()


def first_broken(conn: Connection) -> int | None:
    """The sequence number of the first row that does not follow from those before it; None when the chain is whole."""
    before, expected = _GENESIS, 1
    for row in conn.execute("SELECT * FROM ledger ORDER BY seq"):
        told = (row["at"], row["event"], row["who"], row["study_id"], row["instances"], row["destination"])
        if row["seq"] != expected or row["hash"] != row_hash(before, *told, row["detail"]):
            return int(row["seq"])
        before, expected = row["hash"], expected + 1
    return None
