"""Earlier studies that are wanted ahead of appointments, and how far they are fetched. Functions of a connection.

A request is one appointment under one rule; what it wants is chosen once. A study that several requests want is fetched
once, and cancelled when none of them is left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from edge.store.database import Transaction
from edge.store.listing import Listing, ListSql

#: Requests and studies are kept for this long.
_KEPT_SECONDS = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class PrefetchRequest:
    """An appointment for which earlier studies are wanted."""

    rule: str
    source: str  # a destination
    item_key: str
    study_uid: str
    patient_id: str
    patient_name: str
    birth_date: str
    starts_at: str
    id: int = 0
    tries: int = 0


def note_requests(conn: Transaction, found: Iterable[PrefetchRequest], now: float) -> None:
    """Enter new requests, and cancel those whose appointment is gone."""
    keys = set()
    for each in found:
        keys.add((each.rule, each.item_key))
        conn.execute(
            "INSERT INTO prefetch_request (rule, source, item_key, study_uid, patient_id, patient_name, birth_date,"
            " starts_at, noted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (rule, item_key) DO UPDATE SET"
            " starts_at = excluded.starts_at, state = CASE state WHEN 'cancelled' THEN 'wanted' ELSE state END",
            (
                *(each.rule, each.source, each.item_key, each.study_uid, each.patient_id, each.patient_name),
                *(each.birth_date, each.starts_at, now),
            ),
        )
    rows = conn.execute("SELECT id, rule, item_key FROM prefetch_request WHERE state <> 'cancelled'").fetchall()
    gone = [row[0] for row in rows if (row[1], row[2]) not in keys]
    conn.executemany("UPDATE prefetch_request SET state = 'cancelled' WHERE id = ?", [(each,) for each in gone])
    conn.execute(
        "UPDATE prefetch_study SET state = 'cancelled' WHERE state = 'wanted' AND NOT EXISTS (SELECT 1"
        " FROM prefetch_wish AS w JOIN prefetch_request AS r ON r.id = w.request_id"
        " WHERE w.prefetch_id = prefetch_study.id AND r.state <> 'cancelled')"
    )


def next_request(conn: Transaction, now: float, without: Collection[str]) -> PrefetchRequest | None:
    """The request with the nearest appointment of which it is not known yet what it wants."""
    rows = conn.execute(
        "SELECT rule, source, item_key, study_uid, patient_id, patient_name, birth_date, starts_at, id, tries"
        " FROM prefetch_request WHERE state = 'wanted' AND not_before <= ? ORDER BY starts_at, id",
        (now,),
    )
    return next((PrefetchRequest(*row) for row in rows if row["source"] not in without), None)


@dataclass(frozen=True, slots=True)
class PriorStudy:
    """An earlier study as the archive has it."""

    study_uid: str
    instances: int
    is_conflict: bool = False  # its patient differs from that of the appointment


def note_chosen(conn: Transaction, request: PrefetchRequest, priors: Sequence[PriorStudy], now: float) -> None:
    """Record which studies a request wants; one that was fetched already, again if it has grown since."""
    for each in priors:
        state = "conflict" if each.is_conflict else "wanted"
        (number,) = conn.execute(
            "INSERT INTO prefetch_study (source, study_uid, starts_at, state, instances, noted_at)"
            " VALUES (:source, :uid, :starts, :state, :count, :now) ON CONFLICT (source, study_uid) DO UPDATE SET"
            " starts_at = min(starts_at, excluded.starts_at), state = CASE WHEN state IN ('cancelled', 'conflict')"
            " OR (state = 'fetched' AND instances <> excluded.instances) THEN excluded.state ELSE state END,"
            " instances = excluded.instances, not_before = 0 RETURNING id",
            {
                "source": request.source,
                "uid": each.study_uid,
                "starts": request.starts_at,
                "state": state,
                "count": each.instances,
                "now": now,
            },
        ).fetchone()
        conn.execute("INSERT OR IGNORE INTO prefetch_wish VALUES (?, ?)", (request.id, number))
    conn.execute("UPDATE prefetch_request SET state = 'chosen', last_error = '' WHERE id = ?", (request.id,))


def postpone_choice(conn: Transaction, request: int, not_before: float, error: str) -> None:
    conn.execute(
        "UPDATE prefetch_request SET not_before = ?, tries = tries + 1, last_error = ? WHERE id = ?",
        (not_before, error, request),
    )


@dataclass(frozen=True, slots=True)
class WantedStudy:
    """A study that is to be fetched."""

    id: int
    source: str
    study_uid: str
    tries: int


def next_study(conn: Transaction, now: float, without: Collection[str]) -> WantedStudy | None:
    """The study for the nearest appointment; `without`: archives that are not asked now."""
    rows = conn.execute(
        "SELECT id, source, study_uid, tries FROM prefetch_study WHERE state = 'wanted' AND not_before <= ?"
        " ORDER BY starts_at, id",
        (now,),
    )
    return next((WantedStudy(*row) for row in rows if row["source"] not in without), None)


def is_study_wanted(conn: Transaction, study: int) -> bool:
    """Does an appointment still want it?"""
    row = conn.execute("SELECT state FROM prefetch_study WHERE id = ?", (study,)).fetchone()
    return row is not None and row[0] == "wanted"


def note_fetched(conn: Transaction, study: int, count: int) -> None:
    """All that the archive has of it is here; `count` came now."""
    conn.execute(
        "UPDATE prefetch_study SET state = 'fetched', fetched = fetched + ?, last_error = '' WHERE id = ?",
        (count, study),
    )


def postpone_study(conn: Transaction, study: int, count: int, not_before: float, error: str) -> None:
    """Postpone a study of which not all came; `count` came now, and is not fetched again."""
    conn.execute(
        "UPDATE prefetch_study SET fetched = fetched + ?, not_before = ?, tries = tries + 1, last_error = ?"
        " WHERE id = ?",
        (count, not_before, error, study),
    )


def want_again(conn: Transaction, study_uid: str) -> None:
    """Want a study again of which something is not here any more."""
    conn.execute(
        "UPDATE prefetch_study SET state = 'wanted', not_before = 0 WHERE study_uid = ? AND state = 'fetched'"
        " AND EXISTS (SELECT 1 FROM prefetch_wish w JOIN prefetch_request r ON r.id = w.request_id"
        " WHERE w.prefetch_id = prefetch_study.id AND r.state <> 'cancelled')",
        (study_uid,),
    )


@dataclass(frozen=True, slots=True)
class ForeignPriors:
    """Studies that an archive keeps under the patient number of an appointment, and whose patient is another."""

    source: str  # a destination
    count: int
    noted_at: float  # the first


def list_foreign_priors(conn: Transaction) -> list[ForeignPriors]:
    """List, by archive, another patient's priors, while an appointment asks for them."""
    rows = conn.execute(
        "SELECT s.source, count(*), min(s.noted_at) FROM prefetch_study s WHERE s.state = 'conflict' AND EXISTS"
        " (SELECT 1 FROM prefetch_wish w JOIN prefetch_request r ON r.id = w.request_id WHERE w.prefetch_id = s.id"
        " AND r.state <> 'cancelled') GROUP BY s.source ORDER BY s.source"
    )
    return [ForeignPriors(*row) for row in rows]


def has_urgent_work(conn: Transaction) -> bool:
    """Does anything that is urgent wait to go out?"""
    sql = "SELECT 1 FROM tally WHERE state IN ('pending', 'active') AND priority < 2 AND n > 0 LIMIT 1"
    return conn.execute(sql).fetchone() is not None


def forget_old(conn: Transaction, now: float) -> None:
    """Let go of what is long over."""
    before = (now - _KEPT_SECONDS,)
    conn.execute(
        "DELETE FROM prefetch_wish WHERE request_id IN (SELECT id FROM prefetch_request WHERE noted_at < ?"
        " AND state = 'cancelled')",
        before,
    )
    conn.execute("DELETE FROM prefetch_request WHERE noted_at < ? AND state = 'cancelled'", before)
    conn.execute(
        "DELETE FROM prefetch_study WHERE noted_at < ? AND NOT EXISTS (SELECT 1 FROM prefetch_wish AS w"
        " WHERE w.prefetch_id = prefetch_study.id)",
        before,
    )


# -- for people -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListedPrefetch:
    """A study as people read it."""

    id: int
    study_uid: str
    source: str
    state: str
    instances: int
    fetched: int
    starts_at: str
    tries: int
    last_error: str


_LIST = ListSql(
    "id, study_uid, source, state, instances, fetched, starts_at, tries, last_error",
    "FROM prefetch_study",
    "state <> 'wanted', starts_at DESC, id",
    {
        "state": ("state",),
        "from": ("source",),
        "appointment": ("starts_at",),
        "images": ("instances",),
        "fetched": ("fetched",),
    },
)
PREFETCH_COLUMNS = _LIST.orders.keys()


def list_prefetches(conn: Transaction) -> Listing[ListedPrefetch]:
    """List what is wanted, the nearest appointment first, then the rest."""
    return Listing(conn, _LIST, lambda row: ListedPrefetch(*row))
