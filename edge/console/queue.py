"""The queue, by study and destination, and a person's decisions about it, each with a reason that the ledger keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import Access
from edge.errors import EdgeError
from edge.model import DeliveryState
from edge.store import deliveries, queries
from edge.text import counted, for_everybody
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
    "cancel": "Cancel: do not send",
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
            found = queries.batches(conn, states, destination, study, LIMIT)
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
            moved = sum(self._decide(visitor, action, reason, each) for each in picked)
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), status=422)
        assert visitor.session is not None
        visitor.session.kept["notice"] = _told(action, moved)
        back = visitor.field("back")
        return RedirectResponse(f"/queue?{back}" if back else "/queue", 303)

    def _decide(self, visitor: Visitor, action: str, reason: str, pick: Pick) -> int:
        with self._access.db.reading() as conn:
            found = queries.members(conn, pick.study, pick.destination, held=pick.held, code=pick.code)
        command, more = _COMMANDS[action]
        if action == "redirect":
            more = more | {"destination": visitor.field("to")}
        if action == "hold":
            reason = f'held by {visitor.name}: "{reason}"'
        by_instance = action == "routes"
        chosen = [instance if by_instance else delivery for delivery, instance in found]
        return sum(self._command(command, batch, visitor, reason, more) for batch in _batches(chosen))

    def _command(self, command: str, ids: Sequence[int], visitor: Visitor, reason: str, more: dict[str, Any]) -> int:
        told = {"ids": list(ids), "who": visitor.name, "reason": reason, **more}
        answer = self._access.command(command, told)
        return int(answer["moved"]) if "moved" in answer else sum(each["done"] for each in answer["decided"])


_COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "hold": ("queue-hold", {}),
    "release": ("queue-release", {"named": False}),  # a line is many: no conflict, no mismatch
    "retry": ("queue-retry", {}),
    "cancel": ("queue-cancel", {}),
    "stat": ("queue-hasten", {"priority": "stat"}),
    "routine": ("queue-hasten", {"priority": "routine"}),
    "redirect": ("queue-redirect", {"named": True}),
    "routes": ("instance-release", {"named": False}),  # conflicts among them wait on
}
_DONE = {
    "hold": "held",
    "release": "released",
    "retry": "queued to be sent",
    "cancel": "cancelled",
    "stat": "made stat",
    "routine": "made routine",
    "redirect": "sent elsewhere",
    "routes": "given a route",
}


def _told(action: str, moved: int) -> str:
    if not moved:
        return (
            "Nothing was changed: what was marked has moved on by itself, or this cannot be done to it. Conflicts and"
            " mismatches are decided image by image; what has no route, by the routes."
        )
    return f"{counted(moved, 'image')} {_DONE[action]}."


@dataclass(frozen=True, slots=True)
class Pick:
    """A line of the page, by its own name."""

    study: int
    held: bool
    code: str | None  # why it is held
    destination: str  # "" where no route matched


def _parsed(pick: str) -> Pick:
    """`7:held.refused:archive`, `7:waiting:archive`."""
    study, kind, destination = pick.split(":", 2)
    state, _, code = kind.partition(".")
    return Pick(row_number(study), state == "held", code or None, destination or deliveries.UNROUTABLE)


def _study(text: str) -> int | None:
    """The study that an address asks for; None: every one."""
    try:
        return row_number(text)
    except ValueError:
        return None


def _batches(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[i : i + BATCH] for i in range(0, len(ids), BATCH)]
