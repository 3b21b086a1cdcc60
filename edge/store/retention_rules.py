"""The rule [retention.NAME] of each stored instance. Functions of a connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.store.database import Transaction


@dataclass(frozen=True, slots=True)
class RuledInstance:
    """An instance whose file is here, and the rule that keeps it; empty: none."""

    instance_id: int
    path: str
    rule: str


_SELECT = "SELECT id, path, retention FROM instance WHERE state IN ('stored', 'conflict') AND fetched_from = ''"


def list_ruled(conn: Transaction, after: int, limit: int) -> list[RuledInstance]:
    """The next instances by their number."""
    rows = conn.execute(f"{_SELECT} AND id > ? ORDER BY id LIMIT ?", (after, limit))
    return [RuledInstance(*row) for row in rows]


def list_ruled_among(conn: Transaction, instances: Iterable[int]) -> list[RuledInstance]:
    rows = conn.execute(f"{_SELECT} AND id IN (SELECT value FROM json_each(?))", (json.dumps(list(instances)),))
    return [RuledInstance(*row) for row in rows]


def set_rules(conn: Transaction, changes: Mapping[int, str]) -> None:
    conn.executemany("UPDATE instance SET retention = ? WHERE id = ?", [(rule, id_) for id_, rule in changes.items()])
