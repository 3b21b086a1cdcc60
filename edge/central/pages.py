"""The centre's pages: the fleet, each site's history, incidents, and the questions.

Each handler reads the database in one view. Every account sees all sites; operators acknowledge,
note and close.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from anyio import to_thread
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from edge import text
from edge.central import export, fleet, ledgers, notifications, reports
from edge.central.answers import KeptAnswers
from edge.central.config import CentralConfig
from edge.central.fleet import SiteStanding
from edge.central.reports import Column, Question
from edge.central.site_cards import described_sites
from edge.store import outbox
from edge.store.central import history, incidents, outages, sites
from edge.store.central import ledgers as stored_ledgers
from edge.store.central.site_cards import find_card
from edge.store.engine import EngineStore, EngineTransaction, Row
from edge.store.samples import DAY
from edge.text import amount
from edge.web import plot
from edge.web.guard import row_number, visitor_of
from edge.web.listing import cut_page, filter_rows, parse_view
from edge.web.pages import Pages, show_time

#: Rows of an answer that a page shows; the files have all.
MOST_ROWS = 500
#: Heads of a site's ledger that its page shows; `edge central heads` has all.
MOST_HEADS = 20
#: Outages of a site that its page shows.
MOST_OUTAGES = 20
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
INCIDENT_COLUMNS = {"id": "No.", "kind": "What", "site": "Where", "state": "State", "opened": "Since", "age": "For"}
#: Rows of one page of a table.
PART_ROWS = 100
#: Incidents that the page considers.
MOST_INCIDENTS = 2000
INCIDENT_DECISIONS = {
    "acknowledge": incidents.acknowledge,
    "note": incidents.add_note,
    "close": incidents.close_by_hand,
}


class Fleet:
    """All handlers."""

    def __init__(
        self,
        store: EngineStore,
        config: Callable[[], CentralConfig],
        pages: Pages,
        answers: KeptAnswers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`config` is that of the moment."""
        self._store, self._configured, self._pages, self._clock = store, config, pages, clock
        self._answers = answers
        for question in reports.QUESTIONS.values():
            answers.add(question.name, partial(self._make_answer, question), config)

    @property
    def _config(self) -> CentralConfig:
        return self._configured()

    async def _page(self, request: Request, template: str, **context: Any) -> Response:
        """A page of a thousand sites takes its time: it is made in a thread."""
        return await to_thread.run_sync(partial(self._pages.render, request, template, **context))

    # -- the fleet ----------------------------------------------------------------------------------------------------

    async def overview(self, request: Request) -> Response:
        """Every site in one glance, worst first."""
        now, wanted = self._clock(), request.query_params.get("q", "").strip()
        found, open_now, channels = await self._store.read(
            lambda conn: (
                fleet.standings(conn, self._config, now),
                incidents.listing(conn),
                outbox.backlogs(conn),
            )
        )
        level, headline = fleet.summary(found)
        shown = [each for each in found if _matches(each, wanted)]
        return await self._page(
            request,
            "fleet.html",
            level=level,
            headline=headline,
            since=min((each.since for each in found if each.level == fleet.BAD and each.since), default=None),
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
        now, query = self._clock(), request.query_params
        view = parse_view("/sites", query, SITE_COLUMNS, ("tag", "region", "level"), sort="state")
        found = await self._store.read(lambda conn: fleet.standings(conn, self._config, now))
        chosen = [each for each in filter_rows(found, view.wanted, _text) if _fits(each, view.filters)]
        return await self._page(
            request,
            "sites.html",
            view=view,
            part=cut_page(chosen, view, partial(_column, now=now), PART_ROWS),
            columns=[(key, label, key in _NUMBERS) for key, label in SITE_COLUMNS.items()],
            tags=sorted({tag for each in found for tag in each.tags}),
            regions=sorted({each.region for each in found if each.region}),
            now=now,
        )

    async def site(self, request: Request) -> Response:
        """One site: how it is, and how it was."""
        known = self._config.sites.get(request.path_params["id"])
        if known is None:
            return self._pages.render_missing(request)
        reach = REACHES.get(request.query_params.get("over", "day"), REACHES["day"])
        now = self._clock()

        def read(conn: EngineTransaction) -> dict[str, Any]:
            standing, row = fleet.read_standing(conn, described_sites(conn, self._config)[known.id], now)
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
        return await self._page(
            request,
            "site.html",
            **found,
            site=known.id,
            ledger=ledgers.ledger_row(ledger, self._config, now) if ledger else None,
            reported=json.loads(row["status"]) if row else {},
            reaches=REACHES,
            reach=reach,
            known=known,
            plots=_plots(measured, reach, now) if row else [],
            now=now,
        )

    # -- incidents ----------------------------------------------------------------------------------------------------

    async def list_incidents(self, request: Request) -> Response:
        query = request.query_params
        closed = query.get("show") == "all"
        view = parse_view("/incidents", query, INCIDENT_COLUMNS, ("show",))
        most = MOST_INCIDENTS
        found = await self._store.read(lambda conn: incidents.listing(conn, closed=closed, limit=most))
        return await self._page(
            request,
            "incidents.html",
            view=view,
            part=cut_page(filter_rows(found, view.wanted, _incident_text), view, _incident_column, PART_ROWS),
            columns=[(key, label, key == "age") for key, label in INCIDENT_COLUMNS.items()],
            closed=closed,
            cut=len(found) == most,
        )

    async def decide_many(self, request: Request) -> Response:
        """Acknowledge, note or close several incidents with one note."""
        visitor = visitor_of(request)
        text, decide = visitor.field("note")[: incidents.MAX_NOTE], INCIDENT_DECISIONS.get(visitor.field("what"))
        try:
            numbers = [row_number(each) for each in visitor.form.get("pick", [])][:MOST_INCIDENTS]
        except ValueError:
            numbers = []
        if decide is None or not numbers or not text:
            return PlainTextResponse("Choose incidents, and write a note. Go back and try again.\n", 422)

        def work(conn: EngineTransaction) -> int:
            return sum(_decide_one(conn, decide, number, self._clock(), visitor.name, text) for number in numbers)

        count = await self._store.write(work)
        visitor.leave_notice(f"The note is with {amount(count, 'incident')}.")
        return RedirectResponse(
            visitor.field("back") if visitor.field("back").startswith("/incidents") else "/incidents", 303
        )

    async def show_incident(self, request: Request) -> Response:
        number = request.path_params["number"]
        found, notes, members = await self._store.read(
            lambda conn: (
                incidents.find_incident(conn, number),
                incidents.notes(conn, number),
                outages.list_of_incident(conn, number),
            )
        )
        if found is None:
            return self._pages.render_missing(request)
        return await self._page(request, "incident.html", incident=found, notes=notes, members=members)

    async def decide(self, request: Request) -> Response:
        """Acknowledge, note or close."""
        visitor, number = visitor_of(request), request.path_params["number"]
        text, what = visitor.field("note")[: incidents.MAX_NOTE], visitor.field("what")
        if what not in INCIDENT_DECISIONS or (what != "acknowledge" and not text):
            return PlainTextResponse("Say what it is about: the note is empty. Go back and write one.\n", 422)
        try:
            await self._store.write(
                lambda conn: INCIDENT_DECISIONS[what](conn, number, self._clock(), visitor.name, text)
            )
        except incidents.NoIncident as error:
            return PlainTextResponse(f"{error}\n", 409)
        return RedirectResponse(f"/incidents/{number}", 303)

    # -- notifications ------------------------------------------------------------------------------------------------

    async def list_channels(self, request: Request) -> Response:
        """What waits for each channel, and what is parked."""
        found, messages = await self._store.read(lambda conn: (outbox.backlogs(conn), outbox.lines(conn, MOST_ROWS)))
        return await self._page(request, "notifications.html", channels=found, messages=messages)

    async def decide_parked(self, request: Request) -> Response:
        """Send a channel's parked messages again, or discard them."""
        visitor = visitor_of(request)
        decisions = {"retry": notifications.retry_parked, "discard": notifications.discard_messages}
        decision = decisions.get(visitor.field("what"))
        if decision is None:
            return PlainTextResponse("Expected what the page offers.\n", 422)
        await self._store.write(lambda conn: decision(conn, visitor.field("channel"), visitor.name))
        return RedirectResponse("/notifications", 303)

    # -- questions ----------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Response:
        question = reports.QUESTIONS.get(request.path_params["name"])
        if question is None:
            return self._pages.render_missing(request)
        answer = await self._answers.get(question.name)
        keys = [column.key for column in question.columns]
        view = parse_view(f"/ask/{question.name}", request.query_params, keys)
        found = filter_rows(answer, view.wanted, lambda row: " ".join(map(str, row.values())))
        return await self._page(
            request,
            "answer.html",
            question=question,
            view=view,
            part=cut_page(found, view, lambda row, key: row.get(key), PART_ROWS),
            columns=[(each.key, each.label, each.kind not in ("text", "moment")) for each in question.columns],
            show=show,
            as_of=self._clock() - self._answers.age(question.name),
        )

    async def export(self, request: Request) -> Response:
        """The answer as a file."""
        question, kind = reports.QUESTIONS.get(request.path_params["name"]), request.path_params["kind"]
        if question is None or kind not in ("csv", "json"):
            return self._pages.render_missing(request)
        answer = await self._answers.get(question.name)
        text = export.as_csv(question.columns, answer) if kind == "csv" else export.as_json(answer)
        headers = {"content-disposition": f'attachment; filename="{question.name}.{kind}"'}
        media = "text/csv; charset=utf-8" if kind == "csv" else "application/json"
        return Response(text, headers=headers, media_type=media)

    async def _make_answer(self, question: Question) -> reports.Answer:
        """The read on the loop, what is computed from it in a thread."""
        now, config = self._clock(), self._config
        found = await self._store.read(lambda conn: question.read(conn, now))
        return await to_thread.run_sync(question.answer, found, config, now)


def _decide_one(
    conn: EngineTransaction, decide: Callable[..., None], number: int, now: float, who: str, text: str
) -> bool:
    """Decide one incident; False: it is over meanwhile."""
    try:
        decide(conn, number, now, who, text)
    except incidents.NoIncident:
        return False
    return True


def _incident_column(row: Row, column: str) -> Any:
    if column == "state":
        return (
            "closed"
            if row["closed_at"]
            else "escalated"
            if row["escalated_at"]
            else "seen"
            if row["acknowledged_at"]
            else "open"
        )
    if column in ("opened", "age"):
        return row["opened_at"] if column == "opened" else (row["closed_at"] or time.time()) - row["opened_at"]
    return row[column] if column else None


def _incident_text(row: Row) -> str:
    return f"{row['id']} {row['kind']} {row['site'] or ''} {row['severity']} {row['text']}"


def _fits(each: SiteStanding, filters: Mapping[str, str]) -> bool:
    tag, region, level = (filters.get(name, "") for name in ("tag", "region", "level"))
    return (
        (not tag or tag in each.tags) and (not region or region == each.region) and (not level or level == each.level)
    )


def _column(each: SiteStanding, column: str, now: float) -> Any:
    """What a site is sorted by."""
    if column == "state":
        return f"{fleet.LEVELS.index(each.level)} {each.word}"
    values = {
        "since": each.since,
        "heard": each.heard_at,
        "used": each.used_fraction,
        "full": each.full_in,
        "backlog": each.backlog,
    }
    return values[column] if column in values else getattr(each, column)


def _text(each: SiteStanding) -> str:
    """Where a word is searched for."""
    words = (each.id, each.name, each.provider, each.region, each.word, each.version, *each.tags, each.contact)
    return " ".join(words)


def _matches(each: SiteStanding, wanted: str) -> bool:
    """Does a site have the word anywhere?"""
    return wanted.casefold() in _text(each).casefold()


def _need_action(found: Iterable[SiteStanding]) -> list[list[SiteStanding]]:
    """The sites that need a look, in their order; those of one incident together."""
    by_cause: dict[object, list[SiteStanding]] = {}
    for each in found:
        if each.level in (fleet.BAD, fleet.WARN):
            by_cause.setdefault(each.incident or each.id, []).append(each)
    return list(by_cause.values())


def _by_region(found: Iterable[SiteStanding]) -> list[tuple[str, list[SiteStanding]]]:
    """The sites of each region by id; the regions by name."""
    ordered = sorted(found, key=lambda each: (each.region, each.id))
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


# -- cells -------------------------------------------------------------------------------------------------------------


def show(column: Column, row: Mapping[str, Any]) -> str | Markup:
    """A cell of an answer, as people read it."""
    shown = row.get(column.key)
    if shown is None or shown == "":
        return NOTHING
    if column.key == "site":
        return Markup('<a href="/site/{0}">{0}</a>').format(shown)
    if isinstance(shown, bool):
        return "yes" if shown else "no"
    if column.kind in _SHOWN:
        return _SHOWN[column.kind](shown)
    return text.printable(str(shown))


_SHOWN: Mapping[str, Callable[[Any], str | Markup]] = {
    **reports.CELLS,
    "count": lambda each: f"{each:,.0f}",
    "moment": show_time,
}
