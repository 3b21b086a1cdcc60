"""Copies that went out with other bytes than were received: by which rules, under which UIDs, with which SHA-256.

Functions of a connection; the caller owns the transaction. The ledger has the same, for good.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.model import Lease, SentCopy
from edge.store import ledger
from edge.store.database import Transaction

_FIELDS = (
    "delivery_id, instance_id, at, sha256, transfer_syntax_uid, rules, sop_instance_uid, study_uid, series_uid,"
    " received_bytes, bytes"
)


def record_sent(conn: Transaction, sent: Iterable[tuple[Lease, SentCopy | None]], now: float) -> None:
    """Note what deliveries were sent as: None of those that went as they were received."""
    changed: dict[tuple[str, int | None, str, str, tuple[str, ...]], list[tuple[Lease, SentCopy]]] = defaultdict(list)
    for lease, copy in sent:
        if copy is None:
            conn.execute("DELETE FROM sent_copy WHERE delivery_id = ?", (lease.delivery_id,))
            continue
        rules = json.dumps(list(copy.rules)) if copy.rules else ""
        conn.execute(
            f"INSERT OR REPLACE INTO sent_copy ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(lease.delivery_id, lease.instance_id, now, copy.sha256, copy.transfer_syntax_uid, rules),
                *(copy.sop_instance_uid, copy.study_uid, copy.series_uid),
                *(lease.size - lease.dataset_offset, copy.bytes),
            ),
        )
        conn.execute(
            "INSERT INTO sent_tally VALUES (?, 1, ?, ?) ON CONFLICT (destination) DO UPDATE SET copies = copies + 1,"
            " received_bytes = received_bytes + excluded.received_bytes, bytes = bytes + excluded.bytes",
            (lease.destination, lease.size - lease.dataset_offset, copy.bytes),
        )
        if copy.sop_instance_uid:
            _note_way_back(conn, lease, copy)
        received = lease.context_key.transfer_syntax_uid
        changed[lease.destination, lease.study_id, copy.transfer_syntax_uid, received, copy.rules].append((lease, copy))
    for (destination, study, syntax, received, rules_of), copies in changed.items():
        payload = {"transfer_syntax_uid": syntax, "received_in": received, **_digests(copies)}
        if rules_of:
            payload["rules"] = list(rules_of)
        ids = [lease.instance_id for lease, _ in copies]
        ledger.append(
            conn, now, ledger.CHANGED, ledger.EDGE, ids, study_id=study, destination=destination, payload=payload
        )


def _note_way_back(conn: Transaction, lease: Lease, copy: SentCopy) -> None:
    conn.execute(
        "INSERT OR REPLACE INTO deidentified_instance SELECT ?, ?, ?, sop_instance_uid, ?, series_uid, ?"
        " FROM instance WHERE id = ?",
        (lease.destination, copy.sop_instance_uid, copy.study_uid, lease.study_uid, copy.series_uid, lease.instance_id),
    )


def is_approved(conn: Transaction, instance: int, destination: str) -> bool:
    """Whether a person has inspected the pixels of an instance and let it go to a destination."""
    sql = "SELECT 1 FROM pixel_approval WHERE instance_id = ? AND destination = ?"
    return conn.execute(sql, (instance, destination)).fetchone() is not None


def _digests(copies: Iterable[tuple[Lease, SentCopy]]) -> dict[str, object]:
    """SHA-256 of each, in the order of the row's instances."""
    pairs = [(lease.sha256.hex(), copy.sha256.hex()) for lease, copy in copies]
    return {"sha256_received": [each for each, _ in pairs], "sha256_sent": [each for _, each in pairs]}


@dataclass(frozen=True, slots=True)
class SentAs:
    """What one destination holds of one instance."""

    destination: str
    instance_id: int
    at: float
    sha256: str
    transfer_syntax_uid: str
    rules: tuple[str, ...]
    sop_instance_uid: str  # empty: as received
    study_uid: str
    received_bytes: int
    bytes: int


def list_sent(conn: Transaction, study_id: int) -> list[SentAs]:
    """The copies of a study that went out with other bytes, by destination."""
    rows = conn.execute(
        "SELECT d.destination, c.instance_id, c.at, c.sha256, c.transfer_syntax_uid, c.rules, c.sop_instance_uid,"
        " c.study_uid, c.received_bytes, c.bytes FROM instance i JOIN sent_copy c ON c.instance_id = i.id"
        " JOIN delivery d ON d.id = c.delivery_id WHERE i.study_id = ? ORDER BY d.destination, c.instance_id",
        (study_id,),
    )
    return [
        SentAs(row[0], row[1], row[2], row[3].hex(), row[4], tuple(json.loads(row[5] or "[]")), *row[6:])
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class CopyTally:
    """What a destination was sent with other bytes: copies, their bytes as received and as sent, in all the years."""

    copies: int
    received_bytes: int
    bytes: int

    @property
    def saved_bytes(self) -> int:
        return self.received_bytes - self.bytes


def list_tallies(conn: Transaction) -> dict[str, CopyTally]:
    """List the tallies by destination."""
    rows = conn.execute("SELECT destination, copies, received_bytes, bytes FROM sent_tally")
    return {row[0]: CopyTally(row[1], row[2], row[3]) for row in rows}


def note_rules(conn: Transaction, digests: Mapping[str, str], now: float) -> dict[str, float]:
    """Since when each rule is what it is; one that is new or has changed, since now. `digests`: by name."""
    known = {row[0]: (row[1], row[2]) for row in conn.execute("SELECT name, digest, since FROM coerce_rule")}
    found: dict[str, float] = {}
    for name, digest in digests.items():
        before = known.get(name)
        found[name] = before[1] if before is not None and before[0] == digest else now
        if before is None or before[0] != digest:
            conn.execute(
                "INSERT OR REPLACE INTO coerce_rule (name, digest, since) VALUES (?, ?, ?)", (name, digest, now)
            )
    return found


def rules_since(conn: Transaction) -> dict[str, float]:
    """Since when each rule is what it is, as the running gateway has noted it."""
    return {row[0]: row[1] for row in conn.execute("SELECT name, since FROM coerce_rule")}
