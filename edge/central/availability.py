"""The downtime of each site by month: measured, reported, planned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from edge.central.columns import Answer
from edge.central.config import CentralConfig
from edge.store.central import maintenance, outages, sites
from edge.store.engine import EngineTransaction, Row
from edge.text import iso

#: Outages, sites by id and name, planned work.
Outages = tuple[Sequence[Row], Sequence[Any], Sequence[Row]]


def read_outages(conn: EngineTransaction, now: float) -> Outages:
    """The outages of the last 13 months, the sites, and what work was planned there."""
    begin = months_back(now, 12)
    return (
        outages.list_outages_since(conn, begin, now),
        sites.list_names(conn),
        maintenance.list_windows(conn, begin),
    )


def list_downtime(found: Outages, config: CentralConfig, now: float, begin: float | None = None) -> Answer:
    """Each site's outages by month: how often, how long down, how long only unreachable.

    From `begin` on; omitted: of the last 13 months. Downtime in planned work is counted as planned, and does not lessen
    the availability.
    """
    begin = months_back(now, 12) if begin is None else begin
    listed, known, windows = found
    planned: dict[str, list[tuple[float, float]]] = {}
    for window in windows:
        planned.setdefault(window["site"], []).append((window["begins_at"], window["ends_at"]))
    names = config.names_of(known)
    answer: dict[tuple[str, str], dict[str, Any]] = {}
    for outage in listed:
        down, silent = _down(outage, now), (outage["silent_from"], outage["returned_at"] or now)
        for month, first, last in _months(max(begin, min(down[0], silent[0])), max(down[1], silent[1])):
            site = {"site": outage["site"], "name": names.get(outage["site"], ""), "month": month}
            nothing = {"outages": 0, "down_seconds": 0.0, "planned_seconds": 0.0}
            nothing |= {"unreachable_seconds": 0.0, "available": 1.0}
            row = answer.setdefault((month, outage["site"]), {**site, **nothing})
            within = _overlap(down, (first, last))
            row["outages"] += 1
            as_planned = _planned_part(down, (first, last), planned.get(outage["site"], ()))
            row["down_seconds"] += within - as_planned
            row["planned_seconds"] += as_planned
            row["unreachable_seconds"] += max(0.0, _overlap(silent, (first, last)) - within)
            row["available"] = 1 - row["down_seconds"] / (min(last, now) - first)
    return [answer[key] for key in sorted(answer, reverse=True)]


def _planned_part(
    down: tuple[float, float], month: tuple[float, float], windows: Iterable[tuple[float, float]]
) -> float:
    """How much of a downtime in a month was planned; windows that overlap count once."""
    begin, end = max(down[0], month[0]), min(down[1], month[1])
    done, total = begin, 0.0
    for first, last in sorted(windows):
        total += max(0.0, min(end, last) - max(done, first))
        done = max(done, min(end, last))
    return total


def _down(outage: Row, now: float) -> tuple[float, float]:
    """When the site did not run: as it reports, else as measured, else, while it is not known, all the silence."""
    for begin, end in (("reported_from", "reported_to"), ("down_from", "down_to")):
        if outage[begin] is not None:
            return outage[begin], outage[end]
    if outage["cause"] == "unreachable":
        return outage["silent_from"], outage["silent_from"]
    return outage["silent_from"], outage["returned_at"] or now


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def months_back(now: float, count: int) -> float:
    """The beginning (UTC) of the month that was `count` months before this one."""
    at = datetime.fromtimestamp(now, timezone.utc)
    index = at.year * 12 + at.month - 1 - count
    return datetime(index // 12, index % 12 + 1, 1, tzinfo=timezone.utc).timestamp()


def _months(begin: float, end: float) -> Iterator[tuple[str, float, float]]:
    """The months (UTC) that a time touches: their name, beginning and end."""
    first = months_back(begin, 0)
    while first <= end:
        after = months_back(first, -1)
        yield iso(first)[:7], first, after
        first = after
