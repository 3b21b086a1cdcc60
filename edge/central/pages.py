"""The centre's pages of sites: the fleet on one page, as a table, and each site's state and history.

Each handler reads the database in one view. Every account sees all sites.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from edge import text
from edge.central import fleet, ledgers
from edge.central.access import CentralPage
from edge.central.columns import PART_ROWS
from edge.central.fleet import SiteStanding
from edge.central.site_cards import described_sites
from edge.store import outbox
from edge.store.central import history, incidents, outages, sites
from edge.store.central import ledgers as stored_ledgers
from edge.store.central.site_cards import find_card
from edge.store.engine import EngineTransaction, Row
from edge.store.samples import DAY
from edge.web import plot
from edge.web.listing import SortKeys, cut_page, filter_rows, parse_view

#: Heads of a site's ledger that its page shows; `edge central heads` has all.
MOST_HEADS = 20
#: Outages of a site that its page shows.
MOST_OUTAGES = 20


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back a site's plots look, and which table has it."""

    label: str
    seconds: float
    table: str


REACHES = {
    "day": Reach("24 hours", DAY, "history_minute"),
    "month": Reach("30 days", 30 * DAY, "history_hour"),
    "year": Reach("13 months", 396 * DAY, "history_day"),
}


#: Columns of the table of sites.
SITE_COLUMNS = {
    "id": "Site",
    "name": "Name",
    "state": "State",
    "since": "Since",
    "heard": "Last heartbeat",
    "used": "Disk",
    "full": "Full in",
    "backlog": "Waiting",
    "version": "Version",
    "provider": "Provider",
    "region": "Region",
}
_NUMBERS = frozenset({"used", "full", "backlog"})


class Fleet(CentralPage):
    async def overview(self, request: Request) -> Response:
        """Every site on one page, worst first."""
        now, wanted = time.time(), request.query_params.get("q", "").strip()
        found, open_now, channels = await self._store.read(
            lambda conn: (
                fleet.standings(conn, self._config(), now),
                incidents.listing(conn),
                outbox.backlogs(conn),
            )
        )
        level, headline = fleet.summary(found)
        shown = [each for each in found if _matches(each, wanted)]
        return await self._pages.render_large(
            request,
            "fleet.html",
            level=level,
            headline=headline,
            since=min((each.since for each in found if each.level == fleet.BAD and each.since), default=None),
            planned=sum(one.word == "maintenance" for one in found),
            counts={each: sum(one.level == each for one in found) for each in ("bad", "warn", "idle", "good")},
            look=_need_action(shown),
            regions=_by_region(shown),
            incidents=open_now,
            parked=sum(each.parked for each in channels.values()),
            wanted=wanted,
            now=now,
        )

    async def table(self, request: Request) -> Response:
        """Every site as a row: sorted, filtered, in parts."""
        now, query = time.time(), request.query_params
        view = parse_view("/sites", query, SITE_COLUMNS, ("tag", "region", "level"), sort="state")
        found = await self._store.read(lambda conn: fleet.standings(conn, self._config(), now))
        chosen = [each for each in filter_rows(found, view.wanted, _text) if _fits(each, view.filters)]
        return await self._pages.render_large(
            request,
            "sites.html",
            view=view,
            part=cut_page(chosen, view, _SORT_KEYS, PART_ROWS),
            columns=[(key, label, key in _NUMBERS) for key, label in SITE_COLUMNS.items()],
            tags=sorted({tag for each in found for tag in each.tags}),
            regions=sorted({each.region for each in found if each.region}),
            now=now,
        )

    async def site(self, request: Request) -> Response:
        """One site: how it is, and how it was."""
        known = self._config().sites.get(request.path_params["id"])
        if known is None:
            return self._pages.render_missing(request)
        reach = REACHES.get(request.query_params.get("over", "day"), REACHES["day"])
        now = time.time()

        def read(conn: EngineTransaction) -> dict[str, Any]:
            standing, row = fleet.read_standing(conn, described_sites(conn, self._config())[known.id], now)
            return {
                "standing": standing,
                "row": row,
                "card": find_card(conn, known.id),
                "measured": history.list_measurements(conn, reach.table, known.id, now - reach.seconds),
                "incidents": incidents.listing(conn, closed=True, site=known.id, limit=50),
                "ledger": next(iter(stored_ledgers.list_ledgers(conn, known.id)), None),
                "heads": stored_ledgers.list_heads(conn, known.id, MOST_HEADS),
                "outages": outages.list_of_site(conn, known.id, MOST_OUTAGES),
                "missing": sites.count_missing(conn, known.id),
            }

        found = await self._store.read(read)
        row, measured, ledger = found["row"], found.pop("measured"), found.pop("ledger")
        return await self._pages.render_large(
            request,
            "site.html",
            **found,
            ledger=ledgers.ledger_row(ledger, self._config(), now) if ledger else None,
            reported=json.loads(row["status"]) if row else {},
            reaches=REACHES,
            reach=reach,
            known=known,
            plots=_plots(measured, reach, now) if row else [],
            now=now,
        )


def _fits(each: SiteStanding, filters: Mapping[str, str]) -> bool:
    tag, region, level = (filters.get(name, "") for name in ("tag", "region", "level"))
    return (
        (not tag or tag in each.tags) and (not region or region == each.region) and (not level or level == each.level)
    )


def _number_order(site: str) -> str:
    """What sites are ordered by: 9 comes before 10."""
    return re.sub(r"\d+", lambda found: found[0].zfill(12), site)


_SORT_KEYS: SortKeys[SiteStanding] = {
    "id": lambda each: _number_order(each.id),
    "name": lambda each: each.name,
    "state": lambda each: (fleet.LEVELS.index(each.level), each.word),
    "since": lambda each: each.since,
    "heard": lambda each: each.heard_at,
    "used": lambda each: each.used_fraction,
    "full": lambda each: each.full_in,
    "backlog": lambda each: each.backlog,
    "version": lambda each: each.version,
    "provider": lambda each: each.provider,
    "region": lambda each: each.region,
}


def _text(each: SiteStanding) -> str:
    """Where a word is searched for."""
    words = (each.id, each.name, each.provider, each.region, each.word, each.version, *each.tags, each.contact)
    return " ".join(words)


def _matches(each: SiteStanding, wanted: str) -> bool:
    """Does a site have the word anywhere?"""
    return wanted.casefold() in _text(each).casefold()


def _need_action(found: Iterable[SiteStanding]) -> list[list[SiteStanding]]:
    """The sites that need attention, in their order; those of one incident together."""
    by_cause: dict[object, list[SiteStanding]] = {}
    for each in found:
        if each.level in (fleet.BAD, fleet.WARN):
            by_cause.setdefault(each.incident or each.id, []).append(each)
    return list(by_cause.values())


def _by_region(found: Iterable[SiteStanding]) -> list[tuple[str, list[SiteStanding]]]:
    """The sites of each region by id; the regions by name."""
    ordered = sorted(found, key=lambda each: (each.region, _number_order(each.id)))
    return [(region, list(sites)) for region, sites in groupby(ordered, key=lambda each: each.region)]


# -- plots -------------------------------------------------------------------------------------------------------------


def _plots(measured: Sequence[Row], reach: Reach, now: float) -> list[tuple[str, Markup]]:
    """What was measured: disk, backlog, what came in."""

    def line(title: str, of: Callable[[Row], float | None], **more: Any) -> tuple[str, Markup]:
        points = [(float(row["at"]), float(y)) for row in measured if (y := of(row)) is not None]
        return title, plot.over_time(points, now - reach.seconds, now, label=f"{title}, {reach.label}", **more)

    return [
        line("Disk used", _share, unit=text.percent, top=1.0),
        line("Waiting to be sent", lambda row: row["backlog"]),
        line("Received", lambda row: row["received"]),
        line("Oldest that waits", lambda row: row["oldest"], unit=text.span),
    ]


def _share(row: Row) -> float | None:
    return row["used"] / row["total"] if row["used"] is not None and row["total"] else None
