"""Performed procedure steps, what the RIS still has to get of them, and a person's decision about refused ones."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import MASK, ConsolePage, read_required_reason
from edge.errors import EdgeError
from edge.store import step_deliveries
from edge.store.performed_steps import STEP_COLUMNS, ListedStep, list_steps
from edge.text import amount, mask_uids
from edge.web.endpoints import row_number
from edge.web.guard import visitor_of
from edge.web.listing import ListView, posted_view, read_list_page, read_view

#: Of the filter by state: a target lacks something.
_NOT_SENT = "open"
_ACTIONS = {"retry": ("mpps-retry", "queued to be sent"), "cancel": ("mpps-cancel", "cancelled")}


class StepPage(ConsolePage):
    def index(self, request: Request, fault: str = "", code: int = 200, again: ListView | None = None) -> Response:
        """GET /steps. Who may not see patient data sees no accession number, UID or words of the RIS."""
        view = again or read_view(request, "/steps", STEP_COLUMNS, ("state",))
        state = view.choice("state")
        with self._access.db.reading() as conn:
            is_open = state == _NOT_SENT
            page = read_list_page(list_steps(conn, only_open=is_open, state="" if is_open else state), view)
            owed = step_deliveries.summarize_owed_steps(conn)
        self._access.views.record_page(visitor_of(request), "performed steps page")
        if not visitor_of(request).sees_patients:
            page = page.map(_mask)
        return self._pages.render(
            request, "steps.html", code=code, view=view, page=page, owed=owed, open_state=_NOT_SENT, fault=fault
        )

    def decide(self, request: Request) -> Response:
        """POST /steps/decide: retry or cancel what a target lacks of the selected steps."""
        visitor = visitor_of(request)
        view = posted_view(request, "/steps", STEP_COLUMNS, ("state",))
        action = _ACTIONS.get(visitor.field("action"))
        try:
            ids = [row_number(each) for each in visitor.form.get("pick", [])]
            if not ids or action is None:
                raise EdgeError("Select at least one step, and choose an action.")
            command, done = action
            fields = {"ids": ids, "destination": "", "who": visitor.name, "reason": read_required_reason(visitor)}
            moved = self._access.command(command, fields)["moved"]
            if not moved:
                raise EdgeError("Nothing was changed: these steps have no message that waits or is held.")
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), code=422, again=view)
        visitor.leave_notice(f"{amount(moved, 'message')} {done}.")
        return RedirectResponse(view.link(), 303)


def _mask(each: ListedStep) -> ListedStep:
    accession = MASK if each.accession_number else ""
    return replace(each, accession_number=accession, sop_instance_uid=mask_uids(each.sop_instance_uid))
