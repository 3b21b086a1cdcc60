"""Queues of HL7 messages that go on to others, one a relay, in order. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge.store.database import Transaction
from edge.store.listing import Listing, ListSql


def enqueue_message(conn: Transaction, relays: Iterable[str], message_id: int, identifiers: Sequence[str]) -> None:
    conn.executemany(
        "INSERT OR IGNORE INTO hl7_relay (relay, message_id, identifiers) VALUES (?, ?, ?)",
        [(each, message_id, " ".join(identifiers)) for each in relays],
    )


@dataclass(frozen=True, slots=True)
class RelayedMessage:
    """The message whose turn it is."""

    id: int
    message_id: int
    control_id: str
    body: bytes
    tries: int
    first_at: float | None
    not_before: float


def find_next(conn: Transaction, relay: str) -> RelayedMessage | None:
    """Find the oldest that waits, of whose patient no message is held before it."""
    held: set[str] = set()
    rows = conn.execute(
        "SELECT id, state, identifiers FROM hl7_relay WHERE relay = ? AND state IN ('waiting', 'held') ORDER BY id",
        (relay,),
    )
    for number, state, text in rows:  # read no further than that one
        named = set(text.split())
        if state == "waiting" and not named & held:
            return _read(conn, number)
        held |= named
    return None


def _read(conn: Transaction, number: int) -> RelayedMessage:
    row = conn.execute(
        "SELECT r.id, r.message_id, m.control_id, m.body, r.tries, r.first_at, r.not_before FROM hl7_relay r"
        " JOIN hl7_message m ON m.id = r.message_id WHERE r.id = ?",
        (number,),
    ).fetchone()
    values = list(row)
    values[3] = values[3] or b""
    return RelayedMessage(*values)


def note_sent(conn: Transaction, number: int, code: str, now: float) -> None:
    conn.execute(
        "UPDATE hl7_relay SET state = 'sent', code = ?, peer_text = '', ended_at = ?"
        " WHERE id = ? AND state = 'waiting'",
        (code, now, number),
    )


def note_failed(conn: Transaction, number: int, code: str, peer_text: str, not_before: float, now: float) -> None:
    """Record a failed attempt: the message is tried again at `not_before` (UTC seconds)."""
    conn.execute(
        "UPDATE hl7_relay SET tries = tries + 1, first_at = coalesce(first_at, ?), not_before = ?, code = ?,"
        " peer_text = ? WHERE id = ? AND state = 'waiting'",
        (now, not_before, code, peer_text[:1000], number),
    )


def hold_message(conn: Transaction, number: int, code: str, peer_text: str, now: float) -> None:
    """The receiver refuses it: a person decides. Later messages of its patient wait behind it."""
    conn.execute(
        "UPDATE hl7_relay SET state = 'held', tries = tries + 1, first_at = coalesce(first_at, :now), code = :code,"
        " peer_text = :text WHERE id = :id AND state = 'waiting'",
        {"now": now, "code": code, "text": peer_text[:1000], "id": number},
    )


def try_now(conn: Transaction, relay: str) -> int:
    """What waits for its next attempt at a relay is due at once. Returns how many."""
    return conn.execute("UPDATE hl7_relay SET not_before = 0 WHERE relay = ? AND state = 'waiting'", (relay,)).rowcount


def list_held_messages(conn: Transaction, relay: str, limit: int) -> list[int]:
    """List the messages that a relay's receiver has refused, in order."""
    rows = conn.execute(
        "SELECT message_id FROM hl7_relay WHERE relay = ? AND state = 'held' ORDER BY id LIMIT ?", (relay, limit)
    )
    return [row[0] for row in rows]


def decide(conn: Transaction, message_id: int, relay: str, state: str, person: str, reason: str, now: float) -> int:
    """A person releases (`waiting`) or cancels what is held or waits. Returns how many."""
    return conn.execute(
        "UPDATE hl7_relay SET state = :state, not_before = 0, first_at = NULL, decided_by = :person,"
        " decision = :reason, ended_at = CASE :state WHEN 'cancelled' THEN :now END WHERE message_id = :id"
        " AND (:relay = '' OR relay = :relay)"
        " AND (state = 'held' OR state = 'waiting' AND :state = 'cancelled')",
        {"state": state, "person": person, "reason": reason, "now": now, "id": message_id, "relay": relay},
    ).rowcount


@dataclass(frozen=True, slots=True)
class RelayBacklog:
    """What waits for one relay."""

    relay: str
    waiting: int
    held: int
    waiting_since: float | None  # when the oldest of those came
    tries: int  # of the first that waits
    peer_text: str
    held_since: float | None


def list_backlogs(conn: Transaction) -> list[RelayBacklog]:
    rows = conn.execute(
        "SELECT r.relay, sum(r.state = 'waiting'), sum(r.state = 'held'),"
        " min(CASE r.state WHEN 'waiting' THEN m.received_at END),"
        " max(CASE r.state WHEN 'waiting' THEN r.tries ELSE 0 END), max(r.code),"
        " min(CASE r.state WHEN 'held' THEN m.received_at END) FROM hl7_relay r"
        " JOIN hl7_message m ON m.id = r.message_id WHERE r.state IN ('waiting', 'held')"
        " GROUP BY r.relay ORDER BY r.relay"
    )
    return [RelayBacklog(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class ListedRelay:
    """One message on its way to a relay, as people read it."""

    relay: str
    message_id: int
    control_id: str
    event: str
    state: str
    tries: int
    code: str
    peer_text: str
    received_at: float
    not_before: float
    ended_at: float | None


_LIST = ListSql(
    "r.relay, r.message_id, m.control_id, m.event, r.state, r.tries, r.code, r.peer_text, m.received_at,"
    " r.not_before, r.ended_at",
    "FROM hl7_relay r JOIN hl7_message m ON m.id = r.message_id",
    "r.id",
    {
        "received": ("m.received_at",),
        "relay": ("r.relay",),
        "event": ("m.event",),
        "state": ("r.state",),
        "tries": ("r.tries",),
    },
)
RELAYED_COLUMNS = _LIST.orders.keys()


def list_relayed(conn: Transaction) -> Listing[ListedRelay]:
    """List what waits for relays or is held, in order."""
    return Listing(conn, _LIST, lambda row: ListedRelay(*row), {"r.state IN ('waiting', 'held')": True})
