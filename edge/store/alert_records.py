"""Alerts as the catalog keeps them, from their first moment to their end, with the notices of each.

So a restart neither forgets an alert nor tells it twice. Functions of a connection: the caller owns the transaction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edge.errors import EdgeError
from edge.store.database import Transaction


class NoSuchAlert(EdgeError):
    """No alert has this number, or it is over."""


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """One alert. Times in seconds since 1970."""

    id: int | None  # None: not yet kept
    kind: str
    subject: str
    severity: str
    since: float  # when its cause began
    seen_at: float  # when it was first noticed
    what: str
    means: str
    do: str
    notified: str = ""  # the worst severity that was notified; empty: none yet
    cleared_at: float | None = None  # its cause is gone since then
    escalated_at: float | None = None
    acknowledged_at: float | None = None
    acknowledged_by: str = ""
    note: str = ""  # a person's words: they stay here, for they may name a patient
    ended_at: float | None = None

    def advise(self, do: str | None = None) -> str:
        """Advice (`do`: that of today; omitted: as recorded) with the alert's number in the commands: to be copied."""
        advice = self.do if do is None else do
        return advice if self.id is None else advice.replace(" ALERT ", f" {self.id} ")


_NOTIFIED = "told"  # language: a column of released migrations
_COLUMNS = (
    f"id, kind, subject, severity, since, seen_at, what, means, todo, {_NOTIFIED}, gone_at, escalated_at,"
    " acknowledged_at, acknowledged_by, note, ended_at"
)
_ADD = f"""
INSERT INTO alert
    (kind, subject, severity, since, seen_at, what, means, todo, {_NOTIFIED}, gone_at, escalated_at, ended_at)
VALUES (:kind, :subject, :severity, :since, :seen_at, :what, :means, :do, :notified, :cleared_at, :escalated_at,
    :ended_at)
RETURNING id
"""
_UPDATE = f"""
UPDATE alert SET severity = :severity, what = :what, means = :means, todo = :do, {_NOTIFIED} = :notified,
    gone_at = :cleared_at, escalated_at = :escalated_at, ended_at = :ended_at
WHERE id = :id RETURNING id
"""


def records(conn: Transaction, ended_since: float = 1e99) -> list[AlertRecord]:
    """The open ones, and those that ended later than that; the latest first."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM alert WHERE ended_at IS NULL OR ended_at >= ? ORDER BY id DESC", (ended_since,)
    )
    return [AlertRecord(*row) for row in rows]


def read_alert(conn: Transaction, number: int) -> AlertRecord:
    """One of them; NoSuchAlert where there is none."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM alert WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise NoSuchAlert(f"there is no alert {number}: `edge alerts list --all` shows them")
    return AlertRecord(*row)


def keep(conn: Transaction, each: AlertRecord) -> int:
    """Write a new alert, or the state of a known one, without what a person said of it. Returns its number."""
    row = conn.execute(_ADD if each.id is None else _UPDATE, asdict(each)).fetchone()
    return int(row[0])


def forget(conn: Transaction, number: int) -> None:
    """One that never held for long enough to be notified."""
    conn.execute("DELETE FROM alert WHERE id = ?", (number,))


def note_notice(conn: Transaction, alert: int, event: str, at: float) -> int:
    """Number a notice; its body is written by `fill_notice`, which needs the number."""
    row = conn.execute(
        "INSERT INTO notice (alert_id, event, at, body) VALUES (?, ?, ?, '') RETURNING id", (alert, event, at)
    ).fetchone()
    return int(row[0])


def fill_notice(conn: Transaction, number: int, body: str) -> None:
    conn.execute("UPDATE notice SET body = ? WHERE id = ?", (body, number))


def notices(conn: Transaction, after: int = 0, limit: int = 1000) -> list[tuple[int, str]]:
    """(number, body) of the notices after one, in order: for the heartbeat."""
    rows = conn.execute("SELECT id, body FROM notice WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    return [(row[0], row[1]) for row in rows]


def forget_ended(conn: Transaction, kinds: Sequence[str], most: int) -> None:
    """Keep the last `most` ended alerts of these kinds, with their notices."""
    old = (
        "SELECT id FROM alert WHERE ended_at IS NOT NULL AND kind IN (SELECT value FROM json_each(?))"
        " ORDER BY id DESC LIMIT -1 OFFSET ?"
    )
    numbers = [row[0] for row in conn.execute(old, (json.dumps(list(kinds)), most))]
    conn.executemany("DELETE FROM notice WHERE alert_id = ?", [(each,) for each in numbers])
    conn.executemany("DELETE FROM alert WHERE id = ?", [(each,) for each in numbers])


def count_notices(conn: Transaction, kinds: Sequence[str], since: float) -> int:
    """How many notices there were of alerts of these kinds. Of the last thousand."""
    sql = (
        "SELECT count(*) FROM (SELECT alert_id, at FROM notice ORDER BY id DESC LIMIT 1000) AS last"
        " JOIN alert ON alert.id = last.alert_id WHERE last.at > ? AND alert.kind IN (SELECT value FROM json_each(?))"
    )
    return int(conn.execute(sql, (since, json.dumps(list(kinds)))).fetchone()[0])


def notices_of(conn: Transaction, alert: int) -> list[tuple[float, str]]:
    """(time, event) of the notices of one alert."""
    rows = conn.execute("SELECT at, event FROM notice WHERE alert_id = ? ORDER BY id", (alert,))
    return [(row[0], row[1]) for row in rows]


def note_acknowledgement(conn: Transaction, number: int, who: str, note: str, now: float) -> AlertRecord:
    """Record that a person has seen an alert. Raises NoSuchAlert where it is over."""
    found = read_alert(conn, number)
    if found.ended_at is not None:
        raise NoSuchAlert(f"alert {number} is over already")
    conn.execute(
        "UPDATE alert SET acknowledged_at = ?, acknowledged_by = ?, note = ? WHERE id = ?", (now, who, note, number)
    )
    return read_alert(conn, number)
