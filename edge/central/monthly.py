"""The month of the fleet: availability, incidents, volumes and capacity of every site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.central import availability, capacity
from edge.central.columns import Column
from edge.central.config import CentralConfig
from edge.monitor.monthly import Month
from edge.store.central import history, incidents, maintenance, outages, sites
from edge.store.engine import EngineTransaction, Row
from edge.text import align_columns, amount, percent_exact, size, span

YEARS_AHEAD = (1, 2, 3, 4, 5)

REPORT_COLUMNS = (
    Column("site", "Site"),
    Column("name", "Name"),
    Column("available", "Available", "exact"),
    Column("down_seconds", "Down", "seconds"),
    Column("planned_seconds", "Planned", "seconds"),
    Column("outages", "Outages", "count"),
    Column("incidents", "Incidents", "count"),
    Column("received", "Images", "count"),
    Column("received_bytes", "Received", "size"),
    Column("backlog", "Most waiting", "count"),
    Column("used_fraction", "Disk", "share"),
    Column("version", "Version"),
)


@dataclass(frozen=True, slots=True)
class FleetMonth:
    """The report. `rows` have the keys of REPORT_COLUMNS; `ahead`: (years, bytes used, bytes a day) of all sites."""

    month: Month
    rows: Sequence[dict[str, Any]]
    sums: dict[str, Any]
    ahead: Sequence[tuple[int, float, float]]
    versions: Sequence[Row]
    worst: Sequence[dict[str, Any]]
    made_at: float


_Found = tuple[Sequence[Row], Sequence[Row], Sequence[Row], Sequence[Row], Sequence[Row], dict[str, Row], Sequence[Row]]


def read_month(conn: EngineTransaction, month: Month, now: float) -> _Found:
    """What the report is made of."""
    return (
        sites.list_fleet(conn),
        outages.list_outages_since(conn, month.begin, now),
        maintenance.list_windows(conn, month.begin),
        history.sums_of_month(conn, month.begin, month.end),
        incidents.count_by_site(conn, month.begin, month.end),
        history.sums_since(conn, now - capacity.YEAR),
        sites.count_versions(conn),
    )


def fleet_month(found: _Found, config: CentralConfig, month: Month, now: float) -> FleetMonth:
    """Compute the report. Pure."""
    fleet, listed, windows, volumes, opened, sums, versions = found
    names = [{"id": row["id"], "name": row["name"]} for row in fleet]
    downs = {
        each["site"]: each
        for each in availability.list_downtime((listed, names, windows), config, now, month.begin)
        if each["month"] == month.name
    }
    came = {row["site"]: row for row in volumes}
    count = {row["site"]: row["n"] for row in opened}
    nothing: dict[str, Any] = {"outages": 0, "down_seconds": 0.0, "planned_seconds": 0.0, "available": 1.0}
    rows = []
    for row in fleet:
        down, volume = downs.get(row["id"], nothing), came.get(row["id"])
        rows.append(
            {
                "site": row["id"],
                "name": config.name_of(row["id"], row["name"]),
                **{key: down[key] for key in nothing},
                "incidents": count.get(row["id"], 0),
                "received": volume["received"] if volume else 0,
                "received_bytes": volume["received_bytes"] if volume else 0,
                "backlog": volume["backlog"] if volume else None,
                "used_fraction": row["used_fraction"],
                "version": row["version"],
            }
        )
    return FleetMonth(
        month=month,
        rows=rows,
        sums=_sums(rows),
        ahead=_ahead(sums),
        versions=versions,
        worst=sorted((each for each in rows if each["available"] < 1), key=lambda each: each["available"])[:10],
        made_at=now,
    )


def _sums(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "sites": len(rows),
        "available": sum(each["available"] for each in rows) / len(rows) if rows else 1.0,
        **{
            key: sum(each[key] for each in rows)
            for key in ("outages", "incidents", "received", "received_bytes", "down_seconds", "planned_seconds")
        },
    }


def _ahead(sums: dict[str, Row]) -> list[tuple[int, float, float]]:
    """All sites together in some years: each by its own straight line."""
    lines = [capacity.lines_of(fit) for fit in sums.values() if fit["n"] >= capacity.LEAST_DAYS]
    if not lines:
        return []
    return [
        (
            years,
            sum(max(0.0, used + grows * years * 365.25) for (used, grows), _ in lines),
            sum(max(0.0, came + more * years * 365.25) for _, (came, more) in lines),
        )
        for years in YEARS_AHEAD
    ]


def fleet_letter(found: FleetMonth) -> tuple[str, str]:
    """The report as a mail: its subject and its text. The rows of all sites are on the page, and in its CSV."""
    sums = found.sums
    parts = [
        f"{amount(sums['sites'], 'site')}, available {percent_exact(sums['available'])}:"
        f" {amount(sums['outages'], 'outage')}, down {span(sums['down_seconds'])} of all sites together,"
        f" planned {span(sums['planned_seconds'])}.\n"
        f"{amount(sums['incidents'], 'incident')}; {amount(sums['received'], 'image')} received,"
        f" {size(sums['received_bytes'])}.",
        _part("Least available", [_worst_row(each) for each in found.worst], "Every site was available all the time."),
        _part(
            "Capacity of all sites together",
            [
                (f"in {amount(years, 'year')}", f"{size(used)} used", f"{size(came)} a day")
                for years, used, came in found.ahead
            ],
            "Known after two weeks of measuring.",
        ),
        _part("Versions", [(each["version"], amount(each["sites"], "site")) for each in found.versions], "None."),
    ]
    return f"[Edge central] the report of {found.month.name}", "\n\n".join([*parts, "It names no patient.\n"])


def _worst_row(row: dict[str, Any]) -> tuple[str, ...]:
    down = f"down {span(row['down_seconds'])}"
    return row["site"], row["name"], percent_exact(row["available"]), down, amount(row["outages"], "outage")


def _part(title: str, rows: Sequence[Sequence[str]], none: str) -> str:
    return f"{title}\n{align_columns(rows) if rows else none}"
