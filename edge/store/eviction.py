"""Candidates for eviction, and what keeps instances. Functions of a connection: the caller owns the transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from edge.store import legal_holds
from edge.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that retention may think about."""

    instance_id: int
    study_id: int | None
    path: str
    size: int  # bytes
    open_deliveries: int
    hold: str
    confirmed_at: float | None
    retention: str = ""  # the rule that keeps it


@dataclass(frozen=True, slots=True)
class Evicted:
    """An instance that was let go, and the file that is to be removed once that is committed."""

    instance_id: int
    study_id: int | None
    path: str
    size: int


#: Somebody else has it with the bytes that were received, or nobody was sent a corrected copy.
IS_ELSEWHERE = (
    "(:corrected OR NOT EXISTS (SELECT 1 FROM sent_copy c WHERE c.instance_id = instance.id AND c.rules <> '')"
    " OR EXISTS (SELECT 1 FROM delivery d WHERE d.instance_id = instance.id AND d.state = 'confirmed'"
    " AND NOT EXISTS (SELECT 1 FROM sent_copy c WHERE c.delivery_id = d.id AND c.rules <> '')))"
)


def oldest_confirmed(conn: Transaction, limit: int, rule: str = "", *, corrected: bool = False) -> list[Candidate]:
    """What may be evicted if it is old enough, of those that a rule keeps; the oldest confirmation first.

    `corrected`: also the originals of which all destinations hold corrected copies.
    """
    rows = conn.execute(
        "SELECT id, study_id, path, size, open_deliveries, hold, confirmed_at, retention FROM instance"
        " WHERE state = 'stored' AND open_deliveries = 0 AND hold = '' AND confirmed_at IS NOT NULL"
        f" AND retention = :rule AND {IS_ELSEWHERE} ORDER BY confirmed_at LIMIT :limit",
        {"limit": limit, "rule": rule, "corrected": corrected},
    )
    return [Candidate(*row) for row in rows]


def oldest_cached(conn: Transaction, limit: int) -> list[Candidate]:
    """What goes before all else, at any age: it is owed to no destination, and can be fetched again."""
    rows = conn.execute(
        "SELECT id, study_id, path, size, open_deliveries, hold, received_at FROM instance INDEXED BY instance_cached"
        " WHERE fetched_from <> '' AND state = 'stored' AND open_deliveries = 0 AND hold = ''"
        " ORDER BY received_at LIMIT ?",
        (limit,),
    )
    return [Candidate(*row) for row in rows]


def evict_cached(conn: Transaction, instance: int) -> Evicted | None:
    """Let a cached instance go, unless something has happened that keeps it: then None."""
    row = conn.execute(
        "UPDATE instance SET state = 'evicted' WHERE id = ? AND fetched_from <> '' AND state = 'stored'"
        " AND open_deliveries = 0 AND hold = '' RETURNING id, study_id, path, size",
        (instance,),
    ).fetchone()
    return Evicted(*row) if row else None


def evict(conn: Transaction, instance: int, confirmed_before: float, *, corrected: bool = False) -> Evicted | None:
    """Let an instance go, unless something has happened that keeps it: then None. `corrected` as above."""
    row = conn.execute(
        "UPDATE instance SET state = 'evicted' WHERE id = :id AND state = 'stored' AND open_deliveries = 0"
        f" AND hold = '' AND confirmed_at <= :before AND {IS_ELSEWHERE} RETURNING id, study_id, path, size",
        {"id": instance, "before": confirmed_before, "corrected": corrected},
    ).fetchone()
    return Evicted(*row) if row else None


def holds(conn: Transaction, kind: str) -> list[str]:
    """The keys of one kind, which they begin with, that keep an instance."""
    rows = conn.execute("SELECT DISTINCT hold FROM instance WHERE hold <> ''")
    found = {row[0].removeprefix(legal_holds.PREFIX) for row in rows}
    return sorted(each for each in found if each and each.startswith(kind))


def hold_study(conn: Transaction, study_uid: str, hold: str) -> None:
    """Keep every instance of a study that is not kept already."""
    conn.execute(
        "UPDATE instance SET hold = hold || ? WHERE hold IN ('', 'legal:')"
        " AND study_id = (SELECT id FROM study WHERE study_uid = ?)",
        (hold, study_uid),
    )


def unhold(conn: Transaction, hold: str, but_studies: Iterable[str] = ()) -> None:
    """End a hold, except for some studies."""
    conn.execute(
        "UPDATE instance SET hold = CASE WHEN hold = ?1 THEN '' ELSE ?2 END"
        " WHERE hold IN (?1, ?2 || ?1) AND hold <> '' AND coalesce(study_id, 0) NOT IN"
        " (SELECT id FROM study WHERE study_uid IN (SELECT value FROM json_each(?3)))",
        (hold, legal_holds.PREFIX, json.dumps(list(but_studies))),
    )
