"""Studies that a person keeps for a legal reason: placed, released, or ended by their date; each with its ledger row.

Retention and the deletion of discarded files pass over what is held, what comes later for the study included. The
caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from edge.errors import EdgeError
from edge.store import ledger
from edge.store.database import Transaction

#: An instance's hold begins so; what follows is the hold of the configuration that it has as well.
PREFIX = "legal:"
#: Why Edge ends one.
ITS_DATE = "its date has come"


@dataclass(frozen=True, slots=True)
class LegalHold:
    """One hold. Times in seconds since 1970, UTC."""

    study_uid: str
    reason: str
    owner: str
    placed_at: float
    ends_at: float | None = None
    ended_at: float | None = None
    ended_by: str = ""
    ended_why: str = ""

    @property
    def is_active(self) -> bool:
        return self.ended_at is None


_COLUMNS = "study_uid, reason, owner, placed_at, ends_at, ended_at, ended_by, ended_why"
_INSERT = f"INSERT INTO legal_hold ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def list_holds(conn: Transaction, *, ended: bool = False, study_uid: str | None = None) -> list[LegalHold]:
    """List the active holds, or all; the latest first."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM legal_hold WHERE (:ended OR ended_at IS NULL)"
        " AND (:uid IS NULL OR study_uid = :uid) ORDER BY id DESC",
        {"ended": ended, "uid": study_uid},
    )
    return [LegalHold(*row) for row in rows]


def is_held(conn: Transaction, study_uid: str) -> bool:
    row = conn.execute("SELECT 1 FROM legal_hold WHERE study_uid = ? AND ended_at IS NULL", (study_uid,)).fetchone()
    return row is not None


def count_active(conn: Transaction) -> int:
    return int(conn.execute("SELECT count(*) FROM legal_hold WHERE ended_at IS NULL").fetchone()[0])


def hold_of_arrival(conn: Transaction, study_uid: str, hold: str) -> str:
    """The hold of an instance that comes now; `hold`: that of the configuration."""
    return PREFIX + hold if study_uid and is_held(conn, study_uid) else hold


def place_hold(
    conn: Transaction, study_uid: str, now: float, owner: str, reason: str, ends_at: float | None = None
) -> LegalHold:
    """Hold a study. Raises EdgeError where it is held already, or where the end is in the past."""
    if is_held(conn, study_uid):
        raise EdgeError(f"study {study_uid} is under a legal hold already: `edge studies holds` shows it")
    if ends_at is not None and ends_at <= now:
        raise EdgeError("the end of a hold must be in the future")
    made = LegalHold(study_uid, reason, owner, now, ends_at)
    conn.execute(_INSERT, tuple(asdict(made).values()))
    _mark(conn, study_uid)
    payload = {"reason": reason, "study_uid": study_uid, **({} if ends_at is None else {"ends_at": ends_at})}
    ledger.append(conn, now, ledger.LEGAL_HOLD, owner, [], study_id=_study_id(conn, study_uid), payload=payload)
    return made


def end_hold(conn: Transaction, study_uid: str, now: float, who: str, why: str) -> None:
    """Release a study. Raises EdgeError where no hold is active."""
    done = conn.execute(
        "UPDATE legal_hold SET ended_at = ?, ended_by = ?, ended_why = ? WHERE study_uid = ? AND ended_at IS NULL",
        (now, who, why, study_uid),
    )
    if not done.rowcount:
        raise EdgeError(f"no legal hold of study {study_uid} is active")
    _unmark(conn, study_uid)
    payload = {"reason": why, "study_uid": study_uid}
    ledger.append(conn, now, ledger.LEGAL_RELEASE, who, [], study_id=_study_id(conn, study_uid), payload=payload)


def end_due(conn: Transaction, now: float) -> int:
    """End the holds whose date has come. Returns how many."""
    rows = conn.execute(
        "SELECT study_uid FROM legal_hold WHERE ended_at IS NULL AND ends_at IS NOT NULL AND ends_at <= ?", (now,)
    ).fetchall()
    for row in rows:
        end_hold(conn, row[0], now, ledger.EDGE, ITS_DATE)
    return len(rows)


def has_due(conn: Transaction, now: float) -> bool:
    row = conn.execute(
        "SELECT 1 FROM legal_hold WHERE ended_at IS NULL AND ends_at IS NOT NULL AND ends_at <= ? LIMIT 1", (now,)
    ).fetchone()
    return row is not None


def _study_id(conn: Transaction, study_uid: str) -> int | None:
    row = conn.execute("SELECT id FROM study WHERE study_uid = ?", (study_uid,)).fetchone()
    return None if row is None else int(row[0])


def _mark(conn: Transaction, study_uid: str) -> None:
    conn.execute(
        "UPDATE instance SET hold = ?1 || hold WHERE substr(hold, 1, length(?1)) <> ?1"
        " AND study_id = (SELECT id FROM study WHERE study_uid = ?2)",
        (PREFIX, study_uid),
    )


def _unmark(conn: Transaction, study_uid: str) -> None:
    conn.execute(
        "UPDATE instance SET hold = substr(hold, length(?1) + 1) WHERE substr(hold, 1, length(?1)) = ?1"
        " AND study_id = (SELECT id FROM study WHERE study_uid = ?2)",
        (PREFIX, study_uid),
    )


# -- after a rebuild, and from another gateway -------------------------------------------------------------------------


def restore(conn: Transaction, known: Iterable[LegalHold]) -> int:
    """Enter holds that were placed before, without rows of the ledger, and mark their instances. Returns how many.

    What the table has already stays: by study and moment.
    """
    count = 0
    for each in known:
        there = conn.execute(
            "SELECT 1 FROM legal_hold WHERE study_uid = ? AND (placed_at = ? OR (ended_at IS NULL AND ? IS NULL))",
            (each.study_uid, each.placed_at, each.ended_at),
        ).fetchone()
        if there is None:
            conn.execute(_INSERT, tuple(asdict(each).values()))
            count += 1
    for hold in list_holds(conn):
        _mark(conn, hold.study_uid)
    return count
