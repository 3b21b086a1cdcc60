"""HL7 messages: what came, what is parked, what waits for relays; and a person's decisions about it."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import MASK, ConsolePage, read_required_reason
from edge.errors import EdgeError
from edge.store.hl7_messages import MESSAGE_COLUMNS, MessageState, list_messages
from edge.store.hl7_text import describe_notes, describe_outcome
from edge.store.relays import RELAYED_COLUMNS, list_relayed
from edge.web.endpoints import row_number
from edge.web.guard import visitor_of
from edge.web.listing import read_list_page, read_view

#: Messages of one page of what waits for a decision.
_UNDECIDED_SHOWN = 20
#: action -> (command, done)
_ACTIONS = {
    "replay": ("hl7-replay", "applied again"),
    "discard": ("hl7-discard", "discarded"),
    "release": ("hl7-release", "sent to its relay again"),
    "cancel": ("hl7-cancel", "not sent to its relay"),
}


class Hl7Page(ConsolePage):
    def index(self, request: Request, fault: str = "", code: int = 200) -> Response:
        """GET /hl7; `state` narrows it. Messages themselves are shown by `edge hl7 show` alone."""
        view = read_view(request, "/hl7", MESSAGE_COLUMNS, ("state",))
        parked_view = read_view(request, "/hl7", MESSAGE_COLUMNS, name="parked")
        relay_view = read_view(request, "/hl7", RELAYED_COLUMNS, name="relays")
        with self._access.db.reading() as conn:
            found = read_list_page(list_messages(conn, state=view.choice("state")), view)
            parked = read_list_page(list_messages(conn, state=MessageState.PARKED.value), parked_view, _UNDECIDED_SHOWN)
            relayed = read_list_page(list_relayed(conn), relay_view, _UNDECIDED_SHOWN)
        self._access.views.record_page(visitor_of(request), "HL7 page")
        if not visitor_of(request).sees_patients:  # a receiver's words may name a patient
            relayed = relayed.map(lambda each: replace(each, peer_text=MASK if each.peer_text else ""))
        return self._pages.render(
            request,
            "hl7.html",
            code=code,
            fault=fault,
            view=view,
            page=found,
            parked_view=parked_view,
            parked=parked,
            relay_view=relay_view,
            relayed=relayed,
            states=[(each.value, each.value.capitalize()) for each in MessageState],
            status=self._access.status()["hl7"],
            why=describe_outcome,
            describe_notes=describe_notes,
        )

    def decide(self, request: Request) -> Response:
        """POST /hl7/decide: replay or discard a parked message, release or cancel a relayed one."""
        visitor = visitor_of(request)
        action = visitor.field("action")
        try:
            if action not in _ACTIONS:
                raise EdgeError("Choose an action.")
            reason = read_required_reason(visitor)
            command, done = _ACTIONS[action]
            number = row_number(visitor.field("id"))
            charsets = self._access.config().feed_charsets
            fields = {"id": number, "relay": visitor.field("relay"), "charsets": charsets}
            answer = self._access.command(command, {**fields, "who": visitor.name, "reason": reason})
            if answer.get("state") == MessageState.PARKED.value:
                raise EdgeError(f"Message {number} is still parked: {answer['reason']}.")
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), code=422)
        visitor.leave_notice(f"Message {number}: {done}.")
        return RedirectResponse("/hl7", 303)
