"""Performed procedure steps, what the RIS still has to get of them, and a person's decision about refused ones."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import MASK, MAX_REASON, ConsolePage
from edge.errors import EdgeError
from edge.store import performed_steps, step_deliveries
from edge.text import amount, mask_uids
from edge.web.endpoints import row_number
from edge.web.guard import visitor_of

_MOST_SHOWN = 200
_ACTIONS = {"retry": ("mpps-retry", "queued to be sent"), "cancel": ("mpps-cancel", "cancelled")}


class StepPage(ConsolePage):
    def index(self, request: Request, fault: str = "", code: int = 200) -> Response:
        """GET /steps. Who may not see patient data sees no accession number, UID or words of the RIS."""
        with self._access.db.reading() as conn:
            found = performed_steps.list_steps(conn, limit=_MOST_SHOWN)
            owed = step_deliveries.summarize_owed_steps(conn)
        if not visitor_of(request).sees_patients:
            found = [
                replace(
                    each,
                    accession_number=MASK if each.accession_number else "",
                    sop_instance_uid=mask_uids(each.sop_instance_uid),
                )
                for each in found
            ]
        full = len(found) == _MOST_SHOWN
        return self._pages.render(request, "steps.html", code=code, steps=found, owed=owed, full=full, fault=fault)

    def decide(self, request: Request) -> Response:
        """POST /steps/decide: retry or cancel what a target lacks of the selected steps."""
        visitor = visitor_of(request)
        action, reason = _ACTIONS.get(visitor.field("action")), visitor.field("reason")[:MAX_REASON]
        try:
            ids = [row_number(each) for each in visitor.form.get("pick", [])]
            if not ids or action is None:
                raise EdgeError("Select at least one step, and choose an action.")
            if not reason:
                raise EdgeError("Give a reason: the ledger records it.")
            command, done = action
            fields = {"ids": ids, "destination": "", "who": visitor.name, "reason": reason}
            moved = self._access.command(command, fields)["moved"]
            if not moved:
                raise EdgeError("Nothing was changed: these steps have no message that waits or is held.")
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), code=422)
        visitor.leave_notice(f"{amount(moved, 'message')} {done}.")
        return RedirectResponse("/steps", 303)
