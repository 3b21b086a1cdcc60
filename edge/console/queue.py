"""The queue, by study and destination, and a person's decisions about it. The ledger records each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import MAX_REASON, ConsolePage
from edge.errors import EdgeError
from edge.model import DeliveryState
from edge.store import batches, deliveries
from edge.text import amount, mask_uids
from edge.web.guard import Visitor, row_number, visitor_of

_STATES = (DeliveryState.HELD, DeliveryState.DEFERRED, DeliveryState.ACTIVE, DeliveryState.PENDING)
_MOST_ROWS = 200
#: Deliveries in one transaction: scanners wait while one runs.
_BATCH = 500
_NOTHING_CHANGED = (
    "Nothing was changed: the selected deliveries changed meanwhile, or do not allow this action. Conflicts and"
    " mismatches need a decision for each image; unroutable images are sent by the routes."
)


@dataclass(frozen=True, slots=True)
class QueueAction:
    """What can be done with the selected rows. A row is many images, so `named` is false: no conflict, no mismatch."""

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


class QueuePage(ConsolePage):
    def index(self, request: Request, fault: str = "", code: int = 200) -> Response:
        """GET /queue; `state`, `destination` and `study` narrow it."""
        visitor, query = visitor_of(request), request.query_params
        state, destination = query.get("state", ""), query.get("destination")
        study = _study(query.get("study", ""))
        states = [each for each in _STATES if state in ("", each.value)]
        with self._access.db.reading() as conn:
            found = batches.list_batches(conn, states, destination, study, _MOST_ROWS)
        if visitor.sees_patients:
            quoting = {each.study_id for each in found if each.reason != mask_uids(each.public_reason)}
            self._access.views.record(visitor, "the queue", studies=sorted(filter(None, quoting)))
        else:  # a destination's own text may contain patient data
            found = [replace(each, reason=mask_uids(each.public_reason), study_uid="") for each in found]
        return self._pages.render(
            request,
            "queue.html",
            code=code,
            batches=found,
            totals=self._access.status()["queue"],
            chosen=state,
            destination=destination,
            study=study,
            destination_choices=[(name, name) for name in self._access.config().destinations],
            actions=[(name, action.label) for name, action in _ACTIONS.items()],
            full=len(found) == _MOST_ROWS,
            query=urlencode({k: v for k, v in query.items() if k in ("state", "destination", "study")}),
            fault=fault,
        )

    def decide(self, request: Request) -> Response:
        """POST /queue/decide: apply one action to the selected rows."""
        visitor = visitor_of(request)
        action, reason = _ACTIONS.get(visitor.field("action")), visitor.field("reason")[:MAX_REASON]
        try:
            rows = [_parse_row(each) for each in visitor.form.get("pick", [])]
            if not rows or action is None:
                raise EdgeError("Select at least one row, and choose an action.")
            if not reason:
                raise EdgeError("Give a reason: the ledger records it.")
            changed = sum(self._decide(visitor, action, reason, each) for each in rows)
            if not changed:
                raise EdgeError(_NOTHING_CHANGED)
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), code=422)
        visitor.leave_notice(f"{amount(changed, 'image')} {action.done}.")
        back = visitor.field("back")
        return RedirectResponse(f"/queue?{back}" if back else "/queue", 303)

    def _decide(self, visitor: Visitor, action: QueueAction, reason: str, row: SelectedRow) -> int:
        """Apply an action to all deliveries of a row. Returns how many have changed."""
        with self._access.db.reading() as conn:
            found = batches.members(conn, row.study, row.destination, held=row.held, code=row.code)
        fields: dict[str, Any] = {**action.fields, "who": visitor.name, "reason": reason}
        if action.command == "queue-reroute":
            fields["destination"] = visitor.field("to")
        by_instance = action.command == "instance-release"
        ids = [instance if by_instance else delivery for delivery, instance in found]
        changed = 0
        for i in range(0, len(ids), _BATCH):
            answer = self._access.command(action.command, {"ids": ids[i : i + _BATCH], **fields})
            changed += answer["moved"] if "moved" in answer else sum(each["done"] for each in answer["decided"])
        return changed


class SelectedRow(NamedTuple):
    """A row of the page, as its checkbox names it."""

    study: int
    held: bool
    code: str | None  # why it is held
    destination: str  # "" if no route matches


def _parse_row(text: str) -> SelectedRow:
    """Parse `7:held.refused:archive` or `7:waiting:archive`."""
    study, kind, destination = text.split(":", 2)
    state, _, code = kind.partition(".")
    return SelectedRow(row_number(study), state == "held", code or None, destination or deliveries.UNROUTABLE)


def _study(text: str) -> int | None:
    """Return the study that a URL asks for; None: every one."""
    try:
        return row_number(text)
    except ValueError:
        return None
