"""The equipment that calls, what has changed about it, and what a person announces.

What was refused is added to the configuration in one step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.config.edit import name_from
from edge.config.kinds import SERVED
from edge.config.sections import Config
from edge.console.access import ConsolePage, read_reason
from edge.errors import ConfigError, EdgeError
from edge.model import UNNAMED_CALLER
from edge.monitor.announcement import ANNOUNCED_KINDS
from edge.store import equipment
from edge.store.web_clients import CLIENT_PREFIX
from edge.text import amount, printable
from edge.web.guard import visitor_of
from edge.web.listing import SortKeys, cut_page, read_view


def _state_of(each: Mapping[str, Any]) -> str:
    return "silent" if each["silent"] else "known"


def _is_known(each: Mapping[str, Any]) -> bool:
    """Is it equipment that is admitted? DICOMweb clients have their own page."""
    return bool(each["admitted"]) and not each["name"].startswith(CLIENT_PREFIX)


#: Column of the known equipment -> what it is sorted by.
_COLUMNS: SortKeys[Mapping[str, Any]] = {
    "name": lambda each: each["name"],
    "title": lambda each: each["ae_title"],
    "address": lambda each: each["address"],
    "equipment": lambda each: f"{each['manufacturer'] or ''} {each['model'] or ''}".strip(),
    "images": lambda each: each["stored"],
    "last": lambda each: each["last_stored"],
    "state": _state_of,
}


class EquipmentPage(ConsolePage):
    def index(
        self,
        request: Request,
        *,
        fault: str = "",
        problems: list[str] | None = None,
        code: int = 200,
        given: Mapping[str, Any] | None = None,
    ) -> Response:
        """GET /equipment. `given`: what a person has typed, which stays in its form after a fault."""
        config, seen = self._access.config(), self._access.status()["modalities"]
        view = read_view(request, "/equipment", _COLUMNS, ("state",))
        with self._access.db.reading() as conn:
            announced = list(equipment.announcements(conn))
        rows = [list_caller(each, config) for each in seen]
        known = [each for each in rows if _is_known(each) and view.choice("state") in ("", _state_of(each))]
        return self._pages.render(
            request,
            "equipment.html",
            code=code,
            refused=[each for each in rows if each["offer"] or not each["admitted"]],
            view=view,
            page=cut_page(known, view, _COLUMNS),
            announced=announced,
            kinds=[(kind, kind.capitalize()) for kind in ANNOUNCED_KINDS],
            services=SERVED,
            given=given or {},
            fault=fault,
            problems=problems or [],
        )

    def add(self, request: Request) -> Response:
        """POST /equipment/add: a [modality.NAME], or another address of one that is there."""
        visitor = visitor_of(request)
        given: dict[str, Any] = {name: visitor.field(name) for name in _TYPED}
        given["service"] = visitor.form.get("service", [])
        try:
            change, fields = _change(given)
            fields |= {"who": visitor.name, "reason": read_reason(visitor)}
            self._access.command(f"configuration-{change}", fields)
        except ConfigError as error:
            return self.index(request, problems=error.problems, code=422, given=given)
        except EdgeError as error:
            return self.index(request, fault=str(error), code=422, given=given)
        visitor.leave_notice(f"[modality.{fields['name']}] is written, and its next call is admitted.")
        return RedirectResponse("/equipment", 303)

    def announce(self, request: Request) -> Response:
        """POST /equipment/announce."""
        visitor = visitor_of(request)
        fields = {name: visitor.field(name) for name in ("kind", "from_date", "expects", "said")}
        try:
            answer = self._access.command("announce", {**fields, "who": visitor.name})
        except EdgeError as error:
            return self.index(request, fault=str(error), code=422, given=fields)
        channels = answer["channels"]
        visitor.leave_notice(
            f"Announced by {amount(len(channels), 'channel')}." if channels else "Recorded; no channel is configured."
        )
        return RedirectResponse("/equipment", 303)


def list_caller(each: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """One caller, and what adding it would do: `offer` "add", "host" or nothing."""
    same = next((one for one in config.modalities.values() if one.ae_title == each["ae_title"]), None)
    why = each["lacks"]
    unnamed = (not each["admitted"] and not why) or each["name"] == UNNAMED_CALLER
    offer = "" if not unnamed else "host" if same is not None and same.hosts else "add" if same is None else ""
    return {
        **each,
        "why": why,
        "offer": offer,
        "suggestion": same.name if same else name_from(each["ae_title"], config.modalities),
    }


#: Fields of the form that adds a caller, each with one value.
_TYPED = ("what", "ae_title", "address", "name", "host", "port", "certificate", "reason")


def _change(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The change that a form asks for, and its fields. Raises EdgeError."""
    if given["what"] == "host":
        return "modality-add-host", {"name": given["name"], "host": given["host"]}
    port = given["port"]
    if not re.fullmatch("[0-9]{0,5}", port):
        raise EdgeError(f'Port: expected a number such as 104, found "{printable(port)}".')
    return "modality-add", {
        "name": given["name"],
        "ae_title": given["ae_title"],
        "hosts": [each.strip() for each in given["host"].split(",") if each.strip()],
        "services": given["service"],
        "port": int(port) if port else None,
        "certificate": given["certificate"],
    }
