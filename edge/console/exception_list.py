"""The page Exceptions: what needs a decision or is missing, in one list; a decision about one, many or all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import ConsolePage, read_required_reason
from edge.errors import EdgeError
from edge.store import queries
from edge.store.database import Transaction
from edge.store.exception_list import (
    EXCEPTION_KINDS,
    MOST_LISTED,
    ExceptionRow,
    differences_of,
    list_exception_rows,
)
from edge.store.patients import words_for
from edge.store.studies import numbers_of
from edge.text import amount
from edge.web.endpoints import row_number
from edge.web.guard import Visitor, visitor_of
from edge.web.listing import ListView, SortKeys, cut_page, posted_view, read_view

_FILTERS = ("kind", "study")
_COLUMNS: SortKeys[ExceptionRow] = {
    "kind": lambda row: (EXCEPTION_KINDS.index(row.kind), row.received_at),
    "patient": lambda row: (row.patient_name.casefold(), row.received_at),
    "received": lambda row: row.received_at,
    "from": lambda row: (row.calling_ae.casefold(), row.received_at),
    "study": lambda row: (row.study_id or 0, row.received_at),
}
#: Instances of one command: scanners wait while one runs; a fetch takes a moment each.
_BATCH, _MOST_REPAIRS = 200, 50


@dataclass(frozen=True, slots=True)
class ListAction:
    """What can be done with what is selected."""

    label: str
    done: str
    command: str


_ACTIONS = {
    "release": ListAction("Release: send by the routes", "sent by the routes", "instance-release"),
    "discard": ListAction("Discard: do not send, the file is deleted later", "discarded", "instance-discard"),
    "repair": ListAction("Fetch a missing or damaged file again", "whole again", "repair"),
}


class ExceptionList(ConsolePage):
    def index(self, request: Request, fault: str = "", code: int = 200, again: ListView | None = None) -> Response:
        """GET /exceptions. UIDs identify patients: only operators see them, and the ledger records it."""
        visitor = visitor_of(request)
        view = again or read_view(request, "/exceptions", _COLUMNS, _FILTERS)
        with self._access.db.reading() as conn:
            found = _read(conn, view)
            chosen = _select(found, view)
            page = cut_page(chosen, view, _COLUMNS)
            ids = [row.instance_id for row in page.rows]
            shown = {each.id: each for each in queries.instances(conn, ids)}
            differences = differences_of(conn, [row.instance_id for row in page.rows if row.kind == "mismatch"])
            study_ids = numbers_of(conn, (each.study_uid for each in shown.values()))
        self._access.views.record_instances(visitor, "the list of exceptions", shown.values(), study_ids)
        return self._pages.render(
            request,
            "exceptions.html",
            code=code,
            fault=fault,
            view=view,
            page=page,
            shown=shown,
            latest=max((row.instance_id for row in chosen), default=0),
            counts={kind: len(rows) for kind, rows in found.items()},
            limit=MOST_LISTED,
            differences=differences,
            words_for=words_for,
            actions=[(name, each.label) for name, each in _ACTIONS.items()],
        )

    def decide(self, request: Request) -> Response:
        """POST /exceptions/decide: apply one action to the selected instances, or to all of one kind."""
        visitor = visitor_of(request)
        view = posted_view(request, "/exceptions", _COLUMNS, _FILTERS)
        try:
            action, reason = _ACTIONS.get(visitor.field("action")), read_required_reason(visitor)
            with self._access.db.reading() as conn:
                rows = _select_rows(_select(_read(conn, view), view), view, visitor)
            if action is None or not rows:
                raise EdgeError("Select at least one image, and choose an action.")
            visitor.leave_notice(self._decide(visitor, action, rows, reason, is_all=bool(visitor.field("all"))))
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), code=422, again=view)
        return RedirectResponse(view.link(), 303)

    def _decide(
        self, visitor: Visitor, action: ListAction, rows: Sequence[ExceptionRow], reason: str, *, is_all: bool
    ) -> str:
        """Apply an action. A conflict is released on the page that shows both versions, and nowhere else."""
        fields = {"who": visitor.name, "reason": reason}
        if action.command == "repair":
            ids = [row.instance_id for row in rows if row.kind == "lost"][:_MOST_REPAIRS]
            answer = self._access.command("repair", {"ids": ids, **fields}) if ids else {}
            answers = answer.get("mended", ())  # language: JSON key
            return f"{amount(sum(each['whole'] for each in answers), 'file')} of {len(rows):,} {action.done}."
        named = [row.instance_id for row in rows if not is_all and row.kind != "conflict"]
        others = [row.instance_id for row in rows if is_all or row.kind == "conflict"]
        decided: list[Mapping[str, Any]] = []
        for ids, more in ((named, {"named": True}), (others, {"named": False})):
            for at in range(0, len(ids), _BATCH):
                extra = more if action.command == "instance-release" else {}
                decided += self._access.command(action.command, {"ids": ids[at : at + _BATCH], **fields, **extra})[
                    "decided"
                ]
        done, left = sum(each["done"] for each in decided), [each["text"] for each in decided if not each["done"]]
        if not done:
            raise EdgeError(f"Nothing was changed: {left[0]}.")
        rest = f" {amount(len(left), 'image')} unchanged: {left[0]}." if left else ""
        return f"{amount(done, 'image')} {action.done}.{rest}"


def _read(conn: Transaction, view: ListView) -> Mapping[str, list[ExceptionRow]]:
    try:
        study = row_number(view.choice("study"))
    except ValueError:
        study = None
    return list_exception_rows(conn, study)


def _select(found: Mapping[str, list[ExceptionRow]], view: ListView) -> list[ExceptionRow]:
    """List the rows of the chosen kind; of all kinds, each instance once, as the kind that needs a person most."""
    kind = view.choice("kind")
    rows = found[kind] if kind in found else chain.from_iterable(found.values())
    first: dict[int, ExceptionRow] = {}
    for row in rows:
        first.setdefault(row.instance_id, row)
    return list(first.values())


def _select_rows(rows: Sequence[ExceptionRow], view: ListView, visitor: Visitor) -> list[ExceptionRow]:
    """List the rows that a person has ticked, or all of one kind. Raises EdgeError or ValueError.

    What came after the page was made has been seen by nobody, and is not among all of it.
    """
    if latest := visitor.field("all"):
        if not view.choice("kind"):
            raise EdgeError("Choose one kind before you decide about all of it.")
        return [row for row in rows if row.instance_id <= row_number(latest)]
    picked = {row_number(each) for each in visitor.form.get("pick", [])}
    return [row for row in rows if row.instance_id in picked]
