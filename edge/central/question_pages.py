"""The centre's pages of questions: each answer as a table, and as a file for other programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from operator import methodcaller
from typing import Any

from anyio import to_thread
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from edge import text
from edge.central import export, reports
from edge.central.access import CentralAccess, CentralPage
from edge.central.columns import CELLS, PART_ROWS, Answer, Column
from edge.central.reports import Question
from edge.web.listing import cut_page, filter_rows, parse_view
from edge.web.pages import show_time

#: What a cell shows that holds nothing.
NOTHING = "\N{EN DASH}"


class QuestionPages(CentralPage):
    """The handlers. The answers are kept for a while at a large fleet (edge.central.answers)."""

    def __init__(self, access: CentralAccess) -> None:
        super().__init__(access)
        for question in reports.QUESTIONS.values():
            access.answers.add(question.name, partial(self._make_answer, question), access.config)

    async def ask(self, request: Request) -> Response:
        question = reports.QUESTIONS.get(request.path_params["name"])
        if question is None:
            return self._pages.render_missing(request)
        answer = await self._answers.get(question.name)
        keys = [column.key for column in question.columns]
        view = parse_view(f"/ask/{question.name}", request.query_params, keys)
        found = filter_rows(answer, view.wanted, lambda row: " ".join(map(str, row.values())))
        return await self._pages.render_large(
            request,
            "answer.html",
            question=question,
            view=view,
            part=cut_page(found, view, {key: methodcaller("get", key) for key in keys}, PART_ROWS),
            columns=[(each.key, each.label, each.kind not in ("text", "moment")) for each in question.columns],
            show=show,
            as_of=time.time() - self._answers.age(question.name),
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

    async def _make_answer(self, question: Question) -> Answer:
        """The read on the loop, what is computed from it in a thread."""
        now, config = time.time(), self._config()
        found = await self._store.read(lambda conn: question.read(conn, now))
        return await to_thread.run_sync(question.answer, found, config, now)


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
    **CELLS,
    "count": lambda each: f"{each:,.0f}",
    "moment": show_time,
}
