"""The queue, by study and destination, and a person's decisions about it, each with a reason that the ledger keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge import queue
from edge.console.access import Access
from edge.errors import EdgeError
from edge.model import DeliveryState
from edge.ops import listing
from edge.ops.words import counted, for_everybody
from edge.web.guard import Visitor, row_number, visitor_of
from edge.web.pages import Pages

WAITING = (DeliveryState.HELD, DeliveryState.DEFERRED, DeliveryState.ACTIVE, DeliveryState.PENDING)
LIMIT = 200
#: So many deliveries are moved in one transaction, for scanners wait while one runs.
BATCH = 500
MAX_REASON = 300
#: action -> what it is called.
ACTIONS = {
    "hold": "Hold: keep from being sent",
    "release": "Release: send what is held",
    "retry": "Try again now",
    "stat": "Make it stat: before everything else",
    "routine": "Make it routine again",
    "redirect": "Send to another destination instead",
    "routes": "Ask the routes again (no route)",
}


class Work:
    def __init__(self, access: Access, pages: Pages) -> None:
        self._access, self._pages = access, pages

    def index(self, request: Request, fault: str = "", status: int = 200) -> Response:
        """GET /queue, with `state`, `destination` and `study` to narrow it."""
        visitor, query = visitor_of(request), request.query_params
        state, destination = query.get("state", ""), query.get("destination")
        study = _study(query.get("study", ""))
        states = [each for each in WAITING if state in ("", each.value)]
        with self._access.db.reading() as conn:
            found = listing.batches(conn, states, destination, study, LIMIT)
        if not visitor.sees_patients:  # an archive's words may quote
            found = [replace(each, reason=for_everybody(each.reason), study_uid="") for each in found]
        else:
            quoting = {each.study_id for each in found if each.study_id and each.reason != for_everybody(each.reason)}
            self._access.looks.record(self._access.db, visitor, "the queue", studies=sorted(quoting))
        kept = visitor.session.kept if visitor.session else {}
        config, told = self._access.config(), self._access.status()["queue"]
        return self._pages.render(
            request,
            "queue.html",
            code=status,
            batches=found,
            totals=told,
            chosen=state,
            destination=destination,
            study=study,
            destination_choices=[(name, name) for name in config.destinations],
            actions=ACTIONS,
            full=len(found) == LIMIT,
            query=urlencode({k: v for k, v in query.items() if k in ("state", "destination", "study")}),
            fault=fault,
            notice=kept.pop("notice", ""),
        )

    def decide(self, request: Request) -> Response:
        """POST /queue/decide: do one thing to all that is marked."""
        visitor = visitor_of(request)
        action, reason = visitor.field("action"), visitor.field("reason")[:MAX_REASON]
        try:
            picked = [_parsed(each) for each in visitor.form.get("pick", [])]
            if not picked or action not in ACTIONS:
                raise EdgeError("Mark at least one line, and choose what to do.")
            if not reason:
                raise EdgeError("Say why: whoever comes next wants to know.")
            moved = sum(self._decide(visitor, action, reason, *each) for each in picked)
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), status=422)
        assert visitor.session is not None
        visitor.session.kept["notice"] = _told(action, moved)
        back = visitor.field("back")
        return RedirectResponse(f"/queue?{back}" if back else "/queue", 303)

    def _decide(self, visitor: Visitor, action: str, reason: str, study: int, held: bool, destination: str) -> int:
        with self._access.db.reading() as conn:
            found = listing.members(conn, study, destination, held=held)
        command, more = _COMMANDS[action]
        if action == "redirect":
            more = {"destination": visitor.field("to")}
        if action == "hold":
            reason = f'held by {visitor.name}: "{reason}"'
        by_instance = action == "routes"
        chosen = [instance if by_instance else delivery for delivery, instance in found]
        return sum(self._command(command, batch, visitor, reason, more) for batch in _batches(chosen))

    def _command(self, command: str, ids: Sequence[int], visitor: Visitor, reason: str, more: dict[str, Any]) -> int:
        told = {"ids": list(ids), "who": visitor.name, "reason": reason, **more}
        return int(self._access.command(command, told)["moved"])


_COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "hold": ("queue-hold", {}),
    "release": ("queue-release", {}),
    "retry": ("queue-retry", {}),
    "stat": ("queue-hasten", {"priority": "stat"}),
    "routine": ("queue-hasten", {"priority": "routine"}),
    "redirect": ("queue-redirect", {}),
    "routes": ("queue-reroute", {}),
}
_DONE = {
    "hold": "held",
    "release": "released",
    "retry": "queued to be sent",
    "stat": "made stat",
    "routine": "made routine",
    "redirect": "sent elsewhere",
    "routes": "given a route",
}


def _told(action: str, moved: int) -> str:
    if not moved:
        return "Nothing was changed: what was marked has moved on by itself, or this cannot be done to it."
    return f"{counted(moved, 'image')} {_DONE[action]}."


def _study(text: str) -> int | None:
    """The study that an address asks for; None: every one."""
    try:
        return row_number(text)
    except ValueError:
        return None


def _parsed(pick: str) -> tuple[int, bool, str]:
    """A line's own name: study, held or waiting, destination ("" where no route matched)."""
    study, kind, destination = pick.split(":", 2)
    return row_number(study), kind == "held", destination or queue.UNROUTABLE


def _batches(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[i : i + BATCH] for i in range(0, len(ids), BATCH)]
