"""The custody ledger: an append-only, hash-chained record of custody events.

Each row's hash covers the hash before it, so that a changed or missing past shows. Rows are written in the
transaction of the change that they record: there is no change without its row and no row without its change.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.store import folded_ledger
from edge.store.database import Transaction

EDGE = "edge"

RECEIVED = "received"
CONFLICT = "conflict"
MISMATCH = "mismatch"  # the patient differs from those of the images before in the study
FETCHED = "fetched"  # cached: taken from a destination, owed to no destination
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
QUERIED = "queried"  # a query or a request to retrieve was answered; what was asked is for the audit trail alone
RETRIEVED = "retrieved"  # objects of a study were sent to one who asked; no delivery
COMMITMENT_ASKED = "commitment-asked"  # a modality asked for storage commitment
COMMITTED = "committed"  # a modality has acknowledged a report that commits to these instances
NOT_COMMITTED = "not-committed"  # the same, of instances that the report names as failed
LEGAL_HOLD = "legal-hold"  # a person keeps a study for a legal reason
LEGAL_RELEASE = "legal-release"  # that is over
REJECTED = "rejected"  # a rejection note was received
PERFORMED = "performed"  # a modality reported a performed procedure step, or its final state
STEP_DECIDED = "step-decided"  # a person has messages of performed steps sent again, or not at all
STEP_SENT = "step-sent"  # a target has a message of a performed procedure step, or a notification
IMPORTED = "imported"  # a person decided whose imported files are, or that they are not imported
DRILLED = "drilled"  # a person has tried a restore
RESTORED = "restored"  # brought back from a copy: the destination had it before, and is asked for its proof
RENAMED = "renamed"  # a destination has another name from now on; the payload has the former

#: What a person decides or does beside the event itself: the value `action` of a payload.
REDIRECT, SET_PRIORITY, DISCARD_MESSAGES = "redirect", "priority", "discard-messages"  # OVERRIDDEN
ASSIGN_IMPORT, DISCARD_IMPORT = "assign", "discard"  # IMPORTED
TRY = "try"  # OVERRIDDEN: a destination is tried at once
REPLAY_HL7, DISCARD_HL7, RELEASE_HL7, CANCEL_HL7 = "replay-hl7", "discard-hl7", "release-hl7", "cancel-hl7"  # the same
DECIDE_STUDY = "decide-study"  # the same: whose images they are
CHANGE, REJECT, ACCOUNT = "change", "reject", "account"  # CONFIGURED
SIGN_IN, SIGN_OUT = "sign-in", "sign-out"  # SIGNED_IN; a REFUSED sign-in
#: How a destination has proved that it has an instance: the value `method` of a CONFIRMED row.
BY_STATUS, BY_QUERY, BY_COMMITMENT = "status", "query", "commitment"

_GENESIS = bytes(32)

Payload = Mapping[str, Any]  # str, int, float, bool, or a list of one of these
#: What a row's hash covers, beside the hash before it.
COLUMNS = "at, event, who, study_id, instances, destination, detail, payload"


def append(
    conn: Transaction,
    at: float,
    event: str,
    who: str,
    instances: Sequence[int],
    *,
    study_id: int | None = None,
    destination: str = "",
    payload: Payload | None = None,
) -> None:
    """Add one row, inside the caller's transaction. `at` in seconds since 1970.

    `payload`: what happened, in values that code can branch on; what a person typed is `reason`, and nothing else is.
    """
    last = conn.execute("SELECT hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    listed = str(list(instances))  # integers: this is JSON
    values = (at, event, who, study_id, listed, destination, "", _encode_payload(payload or {}))
    digest = row_hash(last[0] if last else _GENESIS, *values)
    conn.execute(f"INSERT INTO ledger ({COLUMNS}, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, digest))


def row_hash(before: bytes, *values: Any) -> bytes:
    """SHA-256 that binds one row, the values of COLUMNS, to the one before it. Raises TypeError for no such values."""
    return hashlib.sha256(before + row_text(*values).encode()).digest()


def row_text(*values: Any) -> str:
    """What a row's hash covers beside the hash before it: anybody can do the sum again.

    A JSON array of 8; of 7 in a row of 0.1.0, which has no payload. So no row passes for one of the other form.
    """
    return _encode(list(values if values[-1] is not None else values[:-1]))


#: One encoder for all: json.dumps would make one for each row.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_encode_payload = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Head:
    """A row of the ledger, by number and hash: one that is kept elsewhere shows a rewritten past."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Parse SEQ:HASH. Raises ValueError."""
        seq, _, digest = text.partition(":")
        if not seq.isascii() or not seq.isdigit() or not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise ValueError(f'"{text}"')
        return cls(int(seq), bytes.fromhex(digest))


def head(conn: Transaction) -> Head:
    """The newest row; number 0 where there is none yet."""
    row = conn.execute("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(row[0], row[1]) if row else Head(0, _GENESIS)


def has(conn: Transaction, kept: Head) -> bool:
    """Is a head that was kept elsewhere still in the ledger? Then all rows before it in a whole chain are, too."""
    if (found := folded_ledger.hash_of(conn, kept.seq)) is not None:
        return found == kept.hash
    return folded_ledger.find_range(conn, kept.seq) is not None  # it is in a yearly file: `edge verify` compares


@dataclass(frozen=True, slots=True)
class Broken:
    """The first row that does not follow from the one before it."""

    seq: int
    text: str


_Tick = Callable[[int], None]
#: After each of this many rows `tick` receives the progress.
TICK_ROWS = 10_000


def check(conn: Transaction, after: int = 0, tick: _Tick = lambda _: None, most: int = -1) -> Broken | None:
    """Follow the chain from behind row `after` to its end, in constant memory; None when it is whole.

    `most`: at most this many rows; -1: to the end.

    Rows in yearly files are skipped: the chain continues after them (edge.store.folded_ledger).
    Rows that are cut off its end show only by a head that was kept elsewhere (`has`).
    """
    cursor = conn.cursor()
    cursor.row_factory = None  # plain tuples: a million rows in seconds
    if (folded := folded_ledger.find_range(conn, after)) is not None:
        after = folded.last
    found = folded_ledger.hash_of(conn, after)
    if after and found is None:
        return Broken(after, "the row is missing")
    before, expected = found or _GENESIS, after + 1
    rows = cursor.execute(f"SELECT seq, hash, {COLUMNS} FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?", (after, most))
    for seq, digest, *values in rows:
        if seq != expected and (folded := folded_ledger.find_range(conn, expected)) and folded.last == seq - 1:
            before, expected = folded.last_hash, seq
        if seq != expected:
            gone = f"row {expected} is" if seq == expected + 1 else f"rows {expected} to {seq - 1} are"
            return Broken(seq, f"{gone} missing before it")
        if not follows(before, values, digest):
            return Broken(seq, "the row is not what was written after the one before it")
        before, expected = digest, expected + 1
        if seq % TICK_ROWS == 0:
            tick(seq)
    return None


def follows(before: bytes, values: Sequence[Any], digest: object) -> bool:
    """Is a row, the values of COLUMNS and its hash, what was written behind the row with the hash `before`?"""
    try:
        return row_hash(before, *values) == digest
    except (TypeError, ValueError):
        return False  # a value of a kind that is never written
