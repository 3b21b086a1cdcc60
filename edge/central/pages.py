"""The pages of the central office: the fleet, each site's history, incidents, and the questions.

Handlers run in threads; each reads the database in one view. Whoever signs in sees all sites; operators acknowledge,
note and close.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from edge import text
from edge.central import export, fleet, incidents, ledgers, reports
from edge.central.config import Config
from edge.central.fleet import Standing
from edge.central.reports import DAY, Column, Question
from edge.central.store import Connection, Row, Store, rows, value
from edge.web import pages as web
from edge.web import plot
from edge.web.guard import visitor_of
from edge.web.pages import Pages

#: Rows of an answer that a page shows; the files have all.
MOST_ROWS = 500
#: Heads of a site's ledger that its page shows; `edge central heads` has all.
MOST_HEADS = 20
#: What a cell shows that holds nothing.
NOTHING = "\N{EN DASH}"


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


class Fleet:
    """All handlers."""

    def __init__(
        self, store: Store, config: Callable[[], Config], pages: Pages, clock: Callable[[], float] = time.time
    ) -> None:
        """`config` is that of the moment."""
        self._store, self._configured, self._pages, self._clock = store, config, pages, clock

    @property
    def _config(self) -> Config:
        return self._configured()

    # -- the fleet ----------------------------------------------------------------------------------------------------

    def overview(self, request: Request) -> Response:
        """Every site in one glance, worst first."""
        now, wanted = self._clock(), request.query_params.get("q", "").strip()
        with self._store.reading() as conn:
            found = fleet.standings(conn, self._config, now)
            open_now = incidents.listing(conn)
        level, headline = fleet.verdict(found)
        shown = [each for each in found if _matches(each, wanted)]
        return self._pages.render(
            request,
            "fleet.html",
            level=level,
            headline=headline,
            since=min((each.since for each in found if each.level == fleet.BAD and each.since), default=None),
            counts={each: sum(one.level == each for one in found) for each in ("bad", "warn", "idle", "good")},
            look=_troubles(shown),
            regions=_by_region(shown),
            incidents=open_now,
            wanted=wanted,
            now=now,
        )

    def site(self, request: Request) -> Response:
        """One site: how it is, and how it was."""
        known = self._config.sites.get(request.path_params["id"])
        if known is None:
            return self.missing(request)
        reach = REACHES.get(request.query_params.get("over", "day"), REACHES["day"])
        now = self._clock()
        with self._store.reading() as conn:
            standing, row = fleet.one(conn, known, now)
            return self._pages.render(
                request,
                "site.html",
                site=known.id,
                standing=standing,
                row=row,
                told=json.loads(row["status"]) if row else {},
                reaches=REACHES,
                reach=reach,
                plots=_plots(conn, known.id, reach, now) if row else [],
                incidents=incidents.listing(conn, closed=True, site=known.id, limit=50),
                ledger=ledgers.of(conn, known.id, now),
                heads=ledgers.heads(conn, known.id, MOST_HEADS),
                outages=rows(conn, _OUTAGES, site=known.id),
                missing=value(conn, "SELECT sum(last - first + 1) FROM gap WHERE site = :site", site=known.id) or 0,
                now=now,
            )

    # -- incidents ----------------------------------------------------------------------------------------------------

    def list_incidents(self, request: Request) -> Response:
        closed = request.query_params.get("show") == "all"
        with self._store.reading() as conn:
            found = incidents.listing(conn, closed=closed)
        return self._pages.render(request, "incidents.html", incidents=found, closed=closed)

    def show_incident(self, request: Request) -> Response:
        with self._store.reading() as conn:
            found = incidents.one(conn, request.path_params["number"])
            if found is None:
                return self.missing(request)
            return self._pages.render(
                request,
                "incident.html",
                incident=found,
                notes=incidents.notes(conn, found["id"]),
                members=incidents.members(conn, found["id"]),
            )

    def decide(self, request: Request) -> Response:
        """Acknowledge, note or close."""
        visitor, number = visitor_of(request), request.path_params["number"]
        text, what = visitor.field("note")[: incidents.MAX_NOTE], visitor.field("what")
        decisions = {
            "acknowledge": incidents.acknowledge,
            "note": incidents.add_note,
            "close": incidents.close_by_hand,
        }
        if what not in decisions or (what != "acknowledge" and not text):
            return PlainTextResponse("Say what it is about: the note is empty. Go back and write one.\n", 422)
        try:
            with self._store.writing() as conn:
                decisions[what](conn, number, self._clock(), visitor.name, text)
        except incidents.NoIncident as error:
            return PlainTextResponse(f"{error}\n", 409)
        return RedirectResponse(f"/incidents/{number}", 303)

    # -- questions ----------------------------------------------------------------------------------------------------

    def ask(self, request: Request) -> Response:
        question = reports.known(request.path_params["name"])
        if question is None:
            return self.missing(request)
        answer = self._answer(question)
        return self._pages.render(
            request,
            "answer.html",
            question=question,
            questions=reports.QUESTIONS.values(),
            answer=answer[:MOST_ROWS],
            count=len(answer),
            show=show,
        )

    def export(self, request: Request) -> Response:
        """The answer as a file."""
        question = reports.known(request.path_params["name"])
        if question is None:
            return self.missing(request)
        rows_, kind = self._answer(question), request.path_params["kind"]
        if kind not in ("csv", "json"):
            return self.missing(request)
        text = export.as_csv(reports.columns(question), rows_) if kind == "csv" else export.as_json(rows_)
        headers = {"content-disposition": f'attachment; filename="{question.name}.{kind}"'}
        media = "text/csv; charset=utf-8" if kind == "csv" else "application/json"
        return Response(text, headers=headers, media_type=media)

    def _answer(self, question: Question) -> reports.Answer:
        with self._store.reading() as conn:
            return question.ask(conn, self._config, self._clock())

    def missing(self, request: Request) -> Response:
        return self._pages.render(request, "nothing.html", code=404)


_OUTAGES = """
SELECT * FROM outage WHERE site = :site ORDER BY silent_from DESC LIMIT 20
"""


def _matches(each: Standing, wanted: str) -> bool:
    """Does a site have the word anywhere?"""
    text = f"{each.id} {each.name} {each.provider} {each.region} {each.word}"
    return wanted.lower() in text.lower()


def _troubles(found: Iterable[Standing]) -> list[list[Standing]]:
    """The sites that need a look, in their order; those of one incident together."""
    by_cause: dict[object, list[Standing]] = {}
    for each in found:
        if each.level in (fleet.BAD, fleet.WARN):
            by_cause.setdefault(each.incident or each.id, []).append(each)
    return list(by_cause.values())


def _by_region(found: Iterable[Standing]) -> list[tuple[str, list[Standing]]]:
    """The sites of each region by id; the regions by name."""
    ordered = sorted(found, key=lambda each: (each.region, each.id))
    return [(region, list(sites)) for region, sites in groupby(ordered, key=lambda each: each.region)]


# -- plots -------------------------------------------------------------------------------------------------------------


def _plots(conn: Connection, site: str, reach: Reach, now: float) -> list[tuple[str, Markup]]:
    """What was measured: disk, backlog, what came in."""
    begin = now - reach.seconds
    measured = rows(
        conn,
        f"SELECT * FROM {reach.table} WHERE site = :site AND at >= :begin ORDER BY at",
        site=site,
        begin=int(begin),
    )

    def line(title: str, of: Callable[[Row], float | None], **more: Any) -> tuple[str, Markup]:
        points = [(float(row["at"]), float(y)) for row in measured if (y := of(row)) is not None]
        return title, plot.over_time(points, begin, now, label=f"{title}, {reach.label}", **more)

    return [
        line("Disk used", _share, unit=text.percent, top=1.0),
        line("Waiting to be sent", lambda row: row["backlog"]),
        line("Received", lambda row: row["received"]),
        line("Oldest that waits", lambda row: row["oldest"], unit=text.span),
    ]


def _share(row: Row) -> float | None:
    return row["used"] / row["total"] if row["used"] is not None and row["total"] else None


# -- cells -------------------------------------------------------------------------------------------------------------


def show(column: Column, row: Mapping[str, Any]) -> str | Markup:
    """A cell of an answer, as people read it."""
    told = row.get(column.key)
    if told is None or told == "":
        return NOTHING
    if column.key == "site":
        return Markup('<a href="/site/{0}">{0}</a>').format(told)
    if isinstance(told, bool):
        return "yes" if told else "no"
    if column.kind in _SHOWN:
        return _SHOWN[column.kind](told)
    return text.printable(str(told))


_SHOWN: Mapping[str, Callable[[Any], str | Markup]] = {
    "share": text.percent,
    "exact": reports.exact,
    "size": lambda each: text.size(each) if each >= 0 else f"-{text.size(-each)}",
    "seconds": text.span,
    "count": lambda each: f"{each:,.0f}",
    "moment": web.clock,
}
