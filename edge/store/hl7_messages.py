"""HL7 messages as they were received: each once, with what became of it; what is parked, and what that holds up.

Functions of a connection; the caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from edge.store.database import Transaction, insert_row
from edge.store.listing import Listing, ListSql


class MessageState(str, Enum):
    """What became of a message."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"  # it says what is known
    RELAY_ONLY = "relay-only"  # it goes to the relays, and means nothing here
    IGNORED = "ignored"  # nobody knows its event
    PARKED = "parked"  # a person decides
    REFUSED = "refused"  # it was answered with an error
    DISCARDED = "discarded"  # a person decided that it is not applied


BEHIND_ANOTHER = "behind-another"
DUPLICATE, ALL_RECEIVED = "duplicate", "received"  # of hl7_tally, beside the states


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One message, on its way in."""

    record: str
    position: int
    feed: str
    address: str
    authority: str
    control_id: str
    event: str
    digest: bytes
    size: int
    received_at: float


@dataclass(frozen=True, slots=True)
class MessageOutcome:
    """What became of a message, and why."""

    state: MessageState
    reason: str = ""
    field: str = ""
    notes: tuple[str, ...] = ()
    behind_id: int | None = None


def find_same(conn: Transaction, message: ReceivedMessage) -> tuple[int, bool] | None:
    """Find the message that came before with the same control ID and bytes over the same feed.

    Returns its number, and whether it is this very one: a record of the journal may be read twice.
    """
    row = conn.execute(
        "SELECT id, record, position FROM hl7_message WHERE feed = ? AND control_id = ? AND digest = ?",
        (message.feed, message.control_id, message.digest),
    ).fetchone()
    return (row[0], (row[1], row[2]) == (message.record, message.position)) if row else None


def has_control_id(conn: Transaction, message: ReceivedMessage) -> bool:
    """Did other bytes come under this control ID?"""
    row = conn.execute(
        "SELECT 1 FROM hl7_message WHERE feed = ? AND control_id = ? AND digest <> ? LIMIT 1",
        (message.feed, message.control_id, message.digest),
    ).fetchone()
    return row is not None


def note_repeat(conn: Transaction, number: int, message: ReceivedMessage) -> None:
    """Record that the same message has come again: its effect is there."""
    conn.execute(
        "UPDATE hl7_message SET repeats = repeats + 1, repeated_at = ? WHERE id = ?", (message.received_at, number)
    )
    count_message(conn, message.feed, (ALL_RECEIVED, DUPLICATE), message.received_at)


def enter_received(conn: Transaction, message: ReceivedMessage, body: bytes | None, now: float) -> int:
    """Enter a message before it is applied. Returns its number."""
    row = {
        **{name: getattr(message, name) for name in message.__slots__},
        "applied_at": now,
        "state": MessageState.IGNORED.value,
        "body": body,
    }
    insert_row(conn, "hl7_message", row)
    return int(conn.execute("SELECT last_insert_rowid()").fetchone()[0])


def set_outcome(conn: Transaction, number: int, outcome: MessageOutcome, now: float) -> None:
    conn.execute(
        "UPDATE hl7_message SET state = ?, reason = ?, field = ?, notes = ?, behind_id = ?, applied_at = ?"
        " WHERE id = ?",
        (
            outcome.state.value,
            outcome.reason,
            outcome.field,
            ",".join(dict.fromkeys(outcome.notes)),
            outcome.behind_id,
            now,
            number,
        ),
    )


def drop_body(conn: Transaction, number: int) -> None:
    """Its bytes are not needed any more."""
    conn.execute("UPDATE hl7_message SET body = NULL WHERE id = ?", (number,))


def count_change(conn: Transaction, feed: str, before: MessageState, after: MessageState, at: float) -> None:
    """Count a message in its new state, and no longer in the former one."""
    count_message(conn, feed, (before.value,), at, by=-1)
    count_message(conn, feed, (after.value,), at)


def count_message(conn: Transaction, feed: str, states: Iterable[str], at: float, by: int = 1) -> None:
    conn.executemany(
        "INSERT INTO hl7_tally (feed, state, n, last_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (feed, state) DO UPDATE SET n = n + excluded.n, last_at = max(last_at, excluded.last_at)",
        [(feed, state, by, at) for state in states],
    )
    if by > 0:
        conn.execute("INSERT OR IGNORE INTO hl7_hour (feed, hour_at) VALUES (?, ?)", (feed, int(at // 3600 * 3600)))


# -- parked -----------------------------------------------------------------------------------------------------------


def find_blocking(conn: Transaction, identifiers: Iterable[str], before: int | None = None) -> int | None:
    """Find the last parked message, before `before`, that names one of these identifiers."""
    found = [
        conn.execute(
            "SELECT max(message_id) FROM hl7_parked_identifier WHERE identifier = ? AND message_id < ?",
            (each, before if before is not None else 1 << 62),
        ).fetchone()[0]
        for each in identifiers
    ]
    return max((each for each in found if each is not None), default=None)


def park_message(conn: Transaction, number: int, identifiers: Iterable[str]) -> None:
    """Keep which identifiers a parked message names: later messages about them wait behind it."""
    conn.executemany(
        "INSERT OR IGNORE INTO hl7_parked_identifier (message_id, identifier) VALUES (?, ?)",
        [(number, each) for each in identifiers],
    )


def unpark_message(conn: Transaction, number: int) -> None:
    conn.execute("DELETE FROM hl7_parked_identifier WHERE message_id = ?", (number,))


def list_waiting_behind(conn: Transaction) -> list[int]:
    """List the parked messages that only wait for others, in their order."""
    sql = "SELECT id FROM hl7_message WHERE state = 'parked' AND reason = ? ORDER BY id"
    return [row[0] for row in conn.execute(sql, (BEHIND_ANOTHER,))]


# -- for people -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListedMessage:
    """A message as people read it."""

    id: int
    control_id: str
    feed: str
    state: str
    event: str
    reason: str
    field: str
    notes: str
    behind_id: int | None
    repeats: int
    size: int
    address: str
    received_at: float
    applied_at: float
    decided_by: str
    decision: str
    relays: tuple[str, ...] = ()  # "NAME: state"


_COLUMNS = ", ".join(f"m.{name}" for name in ListedMessage.__slots__ if name != "relays")
_LIST = ListSql(
    _COLUMNS,
    "FROM hl7_message m",
    "m.id DESC",
    {
        "received": ("m.received_at",),
        "feed": ("m.feed",),
        "event": ("m.event",),
        "control": ("m.control_id",),
        "state": ("m.state",),
    },
)
MESSAGE_COLUMNS = _LIST.orders.keys()


def list_messages(conn: Transaction, *, state: str = "", note: str = "", feed: str = "") -> Listing[ListedMessage]:
    """List messages, the latest first."""
    conditions = {
        "m.state = :state": state,
        "m.feed = :feed": feed,
        "m.notes <> '' AND ',' || m.notes || ',' LIKE '%,' || :note || ',%'": note,
    }
    values = {"state": state, "note": note, "feed": feed}
    return Listing(conn, _LIST, lambda row: _with_relays(conn, ListedMessage(*row)), conditions, values)


def find_message(conn: Transaction, number: int) -> ListedMessage | None:
    row = conn.execute(f"SELECT {_COLUMNS} FROM hl7_message m WHERE m.id = ?", (number,)).fetchone()
    return _with_relays(conn, ListedMessage(*row)) if row else None


def _with_relays(conn: Transaction, found: ListedMessage) -> ListedMessage:
    rows = conn.execute("SELECT relay, state FROM hl7_relay WHERE message_id = ? ORDER BY relay", (found.id,))
    return replace(found, relays=tuple(f"{relay}: {state}" for relay, state in rows))


@dataclass(frozen=True, slots=True)
class KeptMessage:
    """What applying a kept message again needs."""

    id: int
    feed: str
    authority: str
    received_at: float
    state: MessageState
    notes: tuple[str, ...]
    body: bytes | None


def read_kept(conn: Transaction, number: int) -> KeptMessage | None:
    row = conn.execute(
        "SELECT id, feed, authority, received_at, state, notes, body FROM hl7_message WHERE id = ?", (number,)
    ).fetchone()
    if row is None:
        return None
    values = list(row)
    values[4:6] = [MessageState(row[4]), tuple(filter(None, row[5].split(",")))]
    return KeptMessage(*values)


def note_decision(conn: Transaction, number: int, person: str, decision: str) -> None:
    conn.execute("UPDATE hl7_message SET decided_by = ?, decision = ? WHERE id = ?", (person, decision, number))


# -- counts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FeedCounts:
    """Messages of one feed since the catalog began."""

    feed: str
    counts: dict[str, int]
    last_at: float


def count_by_feed(conn: Transaction) -> list[FeedCounts]:
    found: dict[str, FeedCounts] = {}
    for feed, state, n, last_at in conn.execute("SELECT feed, state, n, last_at FROM hl7_tally ORDER BY feed"):
        each = found.setdefault(feed, FeedCounts(feed, {}, 0.0))
        each.counts[state] = n
        found[feed] = replace(each, last_at=max(each.last_at, last_at))
    return list(found.values())


@dataclass(frozen=True, slots=True)
class ParkedSummary:
    """What waits for a person: messages that contradict what is known, and those behind them."""

    count: int = 0
    behind: int = 0
    since: float | None = None


def summarize_parked(conn: Transaction) -> ParkedSummary:
    row = conn.execute(
        "SELECT count(*), coalesce(sum(reason = ?), 0), min(received_at) FROM hl7_message WHERE state = 'parked'",
        (BEHIND_ANOTHER,),
    ).fetchone()
    return ParkedSummary(*row)


def list_hours(conn: Transaction, feed: str, since: float) -> list[float]:
    """List the hours in which messages of a feed came; for its usual hours."""
    sql = "SELECT hour_at FROM hl7_hour WHERE feed = ? AND hour_at >= ? ORDER BY hour_at"
    return [float(row[0]) for row in conn.execute(sql, (feed, since))]


# -- forgetting -------------------------------------------------------------------------------------------------------

#: Bodies that nothing needs are kept for people; rows for recognizing a repetition.
BODY_KEPT_SECONDS, ROW_KEPT_SECONDS = 7 * 86400.0, 90 * 86400.0


def forget_old_messages(conn: Transaction, now: float, limit: int = 500) -> int:
    """Let bodies and rows go that nobody needs any more. Returns how many."""
    open_relay = "SELECT 1 FROM hl7_relay r WHERE r.message_id = m.id AND r.state IN ('waiting', 'held')"
    gone = conn.execute(
        "UPDATE hl7_message SET body = NULL WHERE id IN (SELECT m.id FROM hl7_message m WHERE m.body IS NOT NULL"
        f" AND m.received_at < :old AND m.state <> 'parked' AND NOT EXISTS ({open_relay}) LIMIT :limit)",
        {"old": now - BODY_KEPT_SECONDS, "limit": limit},
    ).rowcount
    old = conn.execute(
        "SELECT m.id FROM hl7_message m WHERE m.received_at < :old AND m.state <> 'parked'"
        f" AND NOT EXISTS ({open_relay}) AND NOT EXISTS (SELECT 1 FROM hl7_message b WHERE b.behind_id = m.id)"
        " ORDER BY m.received_at LIMIT :limit",
        {"old": now - ROW_KEPT_SECONDS, "limit": limit},
    ).fetchall()
    _delete(conn, old)
    return int(gone) + len(old)


def _delete(conn: Transaction, numbers: Sequence[Any]) -> None:
    conn.executemany("DELETE FROM hl7_relay WHERE message_id = ?", numbers)
    conn.executemany("DELETE FROM hl7_message WHERE id = ?", numbers)
