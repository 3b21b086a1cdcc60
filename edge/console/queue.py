"""The queue, one line a study, and a person's decisions about it. The ledger records each with its reason."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import MASK, ConsolePage, read_required_reason
from edge.console.forecasts import bytes_ahead, forecast
from edge.errors import EdgeError
from edge.store.database import Transaction
from edge.store.waiting import (
    MOST_READ,
    QUEUE_STATES,
    StudyFacts,
    WaitingGroup,
    WaitingStudy,
    list_waiting_studies,
    study_facts,
    waiting_ids,
    waiting_reason,
)
from edge.text import amount, mask_uids
from edge.web.endpoints import row_number
from edge.web.guard import Visitor, visitor_of
from edge.web.listing import MASKED_COLUMNS, ListPage, ListView, SortKeys, cut_page, posted_view, read_view

#: Deliveries in one transaction: scanners wait while one runs.
_BATCH = 500
_NOTHING_CHANGED = (
    "Nothing was changed: the selected deliveries changed meanwhile, or do not allow this action. Conflicts and"
    " mismatches need a decision for each image; unroutable images are sent by the routes."
)


@dataclass(frozen=True, slots=True)
class QueueAction:
    """What can be done with studies. A study is many images, so `named` is false: no conflict, no mismatch."""

    label: str
    done: str
    command: str
    fields: Mapping[str, Any] = field(default_factory=dict)


_ACTIONS = {
    "hold": QueueAction("Hold: do not send until released", "held", "queue-hold"),
    "release": QueueAction("Release: send held deliveries", "released", "queue-release", {"named": False}),
    "retry": QueueAction("Retry now", "queued to be sent", "queue-retry"),
    "cancel": QueueAction("Cancel: do not send", "cancelled", "queue-cancel"),
    "stat": QueueAction("Make stat: send first", "made stat", "queue-set-priority", {"priority": "stat"}),
    "routine": QueueAction("Make routine", "made routine", "queue-set-priority", {"priority": "routine"}),
    "redirect": QueueAction("Reroute to another destination", "rerouted", "queue-reroute", {"named": True}),
    "routes": QueueAction(
        "Apply the routes again (unroutable)", "sent by the routes", "instance-release", {"named": False}
    ),
}


_FILTERS = ("state", "destination", "study")
#: Column -> what it is sorted by.
_COLUMNS: SortKeys[QueueRow] = {
    "patient": lambda row: (row.facts.patient_name.casefold(), row.facts.patient_id),
    "accession": lambda row: row.facts.accession,
    "description": lambda row: row.facts.description.casefold(),
    "state": lambda row: (QUEUE_STATES.index(row.study.state), row.study.queued_at),
    "destination": lambda row: tuple(sorted(each.destination for each in row.study.groups)),
    "images": lambda row: row.study.count,
    "priority": lambda row: row.study.priority,
    "age": lambda row: -row.study.queued_at,
}


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What waits of one study, and what the study is about."""

    study: WaitingStudy
    facts: StudyFacts


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A group of a row, as the page shows it."""

    group: WaitingGroup
    reason: str
    forecast: str
    sent: int  # of the study, to this destination
    total: int
    is_web: bool  # it goes by DICOMweb


class QueuePage(ConsolePage):
    def index(self, request: Request, fault: str = "", code: int = 200, again: ListView | None = None) -> Response:
        """GET /queue; `state`, `destination` and `study` narrow it, `sort`, `down` and `page` are the list's."""
        visitor = visitor_of(request)
        view = again or read_view(request, "/queue", _COLUMNS, _FILTERS)
        status = self._access.status()
        with self._access.db.reading() as conn:
            waiting = _select(conn, view)
            page = _page_of(conn, waiting, view)
            facts = study_facts(conn, [row.study.study_id for row in page.rows], counts=True)
            ahead = bytes_ahead(group for each in waiting for group in each.groups)
            lines = {
                row.study.study_id: _lines(conn, row, facts[row.study.study_id], status, ahead, visitor)
                for row in page.rows
            }
        if visitor.sees_patients:
            self._access.views.record(visitor, "the queue", studies=sorted(filter(None, lines)))
        return self._pages.render(
            request,
            "queue.html",
            code=code,
            fault=fault,
            view=view,
            page=page,
            lines=lines,
            shown={number: _mask_facts(each, visitor) for number, each in facts.items()},
            total_images=sum(each.count for each in waiting),
            latest=max(map(_first_delivery, waiting), default=0),
            totals={name: status["queue"][name] for name in ("held", "deferred", "pending", "active")},
            most=MOST_READ,
            destination_choices=[(name, name) for name in self._access.config().destinations],
            actions=[(name, action.label) for name, action in _ACTIONS.items()],
        )

    def decide(self, request: Request) -> Response:
        """POST /queue/decide: apply one action to the selected studies, or to all that the list shows."""
        visitor = visitor_of(request)
        action = _ACTIONS.get(visitor.field("action"))
        view = posted_view(request, "/queue", _COLUMNS, _FILTERS)
        try:
            picked = {row_number(each) for each in visitor.form.get("pick", [])}
            latest = row_number(visitor.field("all") or "0")  # of all that the page has listed; 0: the ticked ones
            if not (picked or latest) or action is None:
                raise EdgeError("Select at least one study, and choose an action.")
            reason = read_required_reason(visitor)
            with self._access.db.reading() as conn:
                waiting = _select(conn, view)
                found = [each for each in waiting if _first_delivery(each) <= latest or (each.study_id or 0) in picked]
                ids = [pair for each in found for pair in waiting_ids(conn, each)]
            if not (changed := self._decide(visitor, action, reason, ids)):
                raise EdgeError(_NOTHING_CHANGED)
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), code=422, again=view)
        visitor.leave_notice(f"{amount(changed, 'image')} {action.done}.")
        return RedirectResponse(view.link(), 303)

    def _decide(self, visitor: Visitor, action: QueueAction, reason: str, found: Sequence[tuple[int, int]]) -> int:
        """Apply an action to deliveries: (delivery, instance). Returns how many have changed."""
        fields: dict[str, Any] = {**action.fields, "who": visitor.name, "reason": reason}
        if action.command == "queue-reroute":
            fields["destination"] = visitor.field("to")
        by_instance = action.command == "instance-release"
        ids = list(dict.fromkeys(instance if by_instance else delivery for delivery, instance in found))
        changed = 0
        for i in range(0, len(ids), _BATCH):
            answer = self._access.command(action.command, {"ids": ids[i : i + _BATCH], **fields})
            changed += answer["moved"] if "moved" in answer else sum(each["done"] for each in answer["decided"])
        return changed


def _first_delivery(study: WaitingStudy) -> int:
    return min(each.first_id for each in study.groups)


def _select(conn: Transaction, view: ListView) -> list[WaitingStudy]:
    """List the studies that the filters of a list select."""
    state, destination = view.choice("state"), view.filters.get("destination")
    states = [each for each in QUEUE_STATES if state in ("", each.value)]
    return list_waiting_studies(conn, states, destination, _study(view.choice("study")), MOST_READ)


def _page_of(conn: Transaction, waiting: Sequence[WaitingStudy], view: ListView) -> ListPage[QueueRow]:
    wanted = [each.study_id for each in waiting] if view.sort in MASKED_COLUMNS else []
    facts = study_facts(conn, wanted, counts=False)
    rows = [QueueRow(each, facts.get(each.study_id, StudyFacts())) for each in waiting]
    return cut_page(rows, view, _COLUMNS)


def _lines(
    conn: Transaction,
    row: QueueRow,
    facts: StudyFacts,
    status: Mapping[str, Any],
    ahead: Mapping[int, int],
    visitor: Visitor,
) -> list[QueueLine]:
    lines = []
    for each in row.study.groups:
        reason, counts = waiting_reason(conn, each), facts.deliveries.get(each.destination, {})
        text = reason.text if visitor.sees_patients else mask_uids(reason.public_text)
        destination = status["destinations"].get(each.destination)
        when = forecast(each, destination, ahead.get(each.first_id, 0), time.time())
        sent = counts.get("sent", 0) + counts.get("confirmed", 0)
        total = sum(counts.values()) - counts.get("cancelled", 0)
        is_web = destination is not None and destination["kind"] == "dicomweb"
        lines.append(QueueLine(each, text, when, sent, total, is_web))
    return lines


def _mask_facts(facts: StudyFacts, visitor: Visitor) -> StudyFacts:
    if visitor.sees_patients:
        return facts
    named = replace(facts, patient_name=MASK, patient_id=MASK, accession=MASK, description=MASK, patient_today={})
    return replace(named, study_uid=MASK)


def _study(text: str) -> int | None:
    """Return the study that a URL asks for; None: every one."""
    try:
        return row_number(text)
    except ValueError:
        return None
