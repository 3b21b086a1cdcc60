"""One image that needs a decision: every version under its SOP Instance UID beside each other, and the decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import MASK, ConsolePage, read_reason
from edge.console.instance_header import COMPARED, TECHNICAL, read_spooled
from edge.errors import EdgeError, Unreadable
from edge.model import InstanceState, Values
from edge.store import queries, undecided
from edge.store.queries import Instance
from edge.store.studies import numbers_of
from edge.text import mark_guess, printable, size
from edge.web.guard import visitor_of

#: action -> (command, its fields besides the instance and the reason)
_ACTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "release": ("instance-release", {"named": True}),
    "discard": ("instance-discard", {}),
}


class InstanceExceptions(ConsolePage):
    def decide(self, request: Request) -> Response:
        """POST /exceptions/NUMBER/decide: release or discard this instance."""
        visitor, number = visitor_of(request), request.path_params["number"]
        action, reason = visitor.field("action"), read_reason(visitor)
        try:
            if action not in _ACTIONS:
                raise EdgeError("Choose an action.")
            command, more = _ACTIONS[action]
            fields = {"ids": [number], "who": visitor.name, "reason": reason, **more}
            (decided,) = self._access.command(command, fields)["decided"]
            if not decided["done"]:
                raise EdgeError(f"Nothing was changed: {decided['text']}.")
        except EdgeError as error:
            return self.compare(request, fault=str(error), code=422)
        visitor.leave_notice(f"Instance {number}: {decided['text']}.")
        return RedirectResponse("/exceptions", 303)

    def compare(self, request: Request, fault: str = "", code: int = 200) -> Response:
        """GET /exceptions/NUMBER: every version that is stored under the same SOP Instance UID."""
        visitor, number = visitor_of(request), request.path_params["number"]
        with self._access.db.reading() as conn:
            versions = queries.list_object_versions(conn, number)
            study_ids = numbers_of(conn, (each.study_uid for each in versions))
        if not versions:
            return self._pages.render_missing(request)
        self._access.views.record_instances(visitor, "a comparison of versions", versions, study_ids)
        return self._pages.render(
            request,
            "compare.html",
            code=code,
            fault=fault,
            decidable=next((each for each in versions if each.id == number and _can_decide(each)), None),
            overwrites=undecided.overwrites(versions, number),
            versions=versions,
            rows=self._rows(versions, masked=not visitor.sees_patients),
        )

    def _rows(self, versions: Sequence[Instance], *, masked: bool) -> list[tuple[str, list[str], bool]]:
        """List (attribute, its text in each version, whether the versions differ), what differs first."""
        headers = [self._header(each) for each in versions]
        rows = []
        for keyword in COMPARED:
            values = [None if header is None else header.get(keyword) for header in headers]
            if any(values):
                texts = ["-" if value is None else printable("\\".join(map(mark_guess, value))) for value in values]
                hidden = masked and keyword not in TECHNICAL
                rows.append((keyword, [MASK] * len(texts) if hidden else texts, len(set(texts)) > 1))
        technical = {
            "SHA-256": [f"{each.sha256[:16]}…" for each in versions],
            "Size": [size(each.size) for each in versions],
            "Received from": [printable(f"{each.calling_ae} at {each.address}") for each in versions],
        }
        rows += [(name, texts, len(set(texts)) > 1) for name, texts in technical.items()]
        return sorted(rows, key=lambda row: not row[2])

    def _header(self, instance: Instance) -> dict[str, Values] | None:
        try:
            return read_spooled(self._access.spool, instance, COMPARED)
        except Unreadable:
            return None


def _can_decide(instance: Instance) -> bool:
    is_kept = instance.state is InstanceState.DISCARDED and instance.deleted_at is None
    return is_kept or undecided.is_undecided(instance)
