"""The equipment that has called, what has changed about it, and the form that announces what is to come."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import ConsolePage
from edge.errors import EdgeError
from edge.monitor.announcement import ANNOUNCED_KINDS
from edge.store import equipment
from edge.text import amount
from edge.web.guard import visitor_of


class EquipmentPage(ConsolePage):
    def index(self, request: Request, fault: str = "", code: int = 200) -> Response:
        """GET /equipment."""
        status = self._access.status()
        with self._access.db.reading() as conn:
            announced = list(equipment.announcements(conn))
        return self._pages.render(
            request,
            "equipment.html",
            code=code,
            fault=fault,
            equipment=[each for each in status["modalities"] if each["admitted"]],
            announced=announced,
            kinds=[(kind, kind.capitalize()) for kind in ANNOUNCED_KINDS],
        )

    def announce(self, request: Request) -> Response:
        """POST /equipment/announce."""
        visitor = visitor_of(request)
        fields = {name: visitor.field(name).strip() for name in ("kind", "from_date", "expects", "said")}
        try:
            answer = self._access.command("announce", {**fields, "who": visitor.name})
        except EdgeError as error:
            return self.index(request, fault=str(error), code=422)
        channels = answer["channels"]
        visitor.leave_notice(
            f"Announced by {amount(len(channels), 'channel')}." if channels else "Recorded; no channel is configured."
        )
        return RedirectResponse("/equipment", 303)
