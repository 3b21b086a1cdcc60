"""The sites' figures by day: what their equipment states, how soon studies are proved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.store.engine import EngineTransaction, Row, do, do_many, rows

FIGURE_DAY = 86400.0
KEPT_DAYS = 400
MOST_SENDERS = 200


def keep_figures(conn: EngineTransaction, site: str, at: float, found: Iterable[Mapping[str, Any]]) -> None:
    """The figures of a day replace those that came earlier that day."""
    day = int(at // FIGURE_DAY)
    lines = [
        {"site": site, "day": day, "ae_title": str(each["ae_title"]), "figures": json.dumps(each)}
        for each in list(found)[:MOST_SENDERS]
    ]
    do_many(
        conn,
        "INSERT INTO figure_day (site, day, ae_title, figures) VALUES (:site, :day, :ae_title, :figures)"
        " ON CONFLICT (site, day, ae_title) DO UPDATE SET figures = excluded.figures",
        lines,
    )


def prune_figures(conn: EngineTransaction, site: str, now: float) -> None:
    do(
        conn,
        "DELETE FROM figure_day WHERE site = :site AND day < :old",
        site=site,
        old=int(now // FIGURE_DAY) - KEPT_DAYS,
    )


def list_figures(conn: EngineTransaction, days: Sequence[int]) -> Sequence[Row]:
    """The figures of the given days."""
    named = ", ".join(f":day{n}" for n in range(len(days)))
    sql = f"SELECT site, day, ae_title, figures FROM figure_day WHERE day IN ({named}) ORDER BY site, ae_title, day"
    return rows(conn, sql, **{f"day{n}": day for n, day in enumerate(days)})
