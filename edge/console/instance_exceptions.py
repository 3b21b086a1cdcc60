"""What waits for a decision image by image, and what is lost; the versions of one, side by side, and the decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console import instance_header
from edge.console.access import Access
from edge.errors import EdgeError, Unreadable
from edge.model import InstanceState, ReasonCode, Values
from edge.monitor.mismatches import mismatched
from edge.store import queries, undecided
from edge.store.patients import words_for
from edge.store.queries import Instance
from edge.text import marked, printable, size
from edge.web.guard import visitor_of
from edge.web.pages import Pages

LIMIT = 100
MAX_REASON = 300
STATES = {
    InstanceState.LOST: "Lost: the file is gone or damaged",
    InstanceState.CONFLICT: "Conflicts: other bytes under a known SOP Instance UID",
    InstanceState.QUARANTINED: "Quarantine: could not be read or trusted",
}
MISMATCHES = "Mismatches: another patient than the images before in the same study"
UNROUTABLE = "Without a route: no [route] matches"
#: action -> (command, what it needs besides, what was done)
ACTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "release": ("instance-release", {"named": True}),
    "discard": ("instance-discard", {}),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute in several versions."""

    keyword: str
    values: list[str]
    differs: bool
    masked: bool


class Troubles:
    def __init__(self, access: Access, pages: Pages) -> None:
        self._access, self._pages = access, pages

    def index(self, request: Request) -> Response:
        """GET /troubles. UIDs, which lead to patients, are shown to those who may see them: that is on record."""
        visitor = visitor_of(request)
        with self._access.db.reading() as conn:
            found = [(state.value, text, queries.troubled(conn, state, LIMIT)) for state, text in STATES.items()]
            differing = {each.instance.id: each for each in mismatched(conn, LIMIT)}
            found.append((ReasonCode.MISMATCH.value, MISMATCHES, [each.instance for each in differing.values()]))
            unrouted = undecided.held_for(conn, ReasonCode.UNROUTABLE, LIMIT)
            found.append((ReasonCode.UNROUTABLE.value, UNROUTABLE, unrouted))
            kept = "Discarded: refused by a person, the file is still kept"
            found.append((InstanceState.DISCARDED.value, kept, undecided.discarded(conn, LIMIT)))
            every = [each for _, _, some in found for each in some]
            numbers = queries.study_numbers(conn, every)
        if visitor.sees_patients:
            looks = self._access.looks
            looks.record_objects(self._access.db, visitor, "the list of conflicts and quarantine", every, numbers)
        notice = visitor.session.kept.pop("notice", "") if visitor.session else ""
        return self._pages.render(
            request,
            "troubles.html",
            groups=found,
            numbers=numbers,
            limit=LIMIT,
            notice=notice,
            mismatches=differing,
            words_for=words_for,
        )

    def decide(self, request: Request) -> Response:
        """POST /troubles/NUMBER/decide: release or discard this very instance."""
        visitor, number = visitor_of(request), request.path_params["number"]
        action, reason = visitor.field("action"), visitor.field("reason")[:MAX_REASON].strip()
        try:
            if action not in ACTIONS:
                raise EdgeError("Choose what to do.")
            command, more = ACTIONS[action]
            told = {"ids": [number], "who": visitor.name, "reason": reason, **more}
            (decided,) = self._access.command(command, told)["decided"]
            if not decided["done"]:
                raise EdgeError(f"Nothing was changed: {decided['text']}.")
        except EdgeError as error:
            return self.compare(request, fault=str(error), status=422)
        assert visitor.session is not None
        visitor.session.kept["notice"] = f"Instance {number}: {decided['text']}."
        return RedirectResponse("/troubles", 303)

    def compare(self, request: Request, fault: str = "", status: int = 200) -> Response:
        """GET /troubles/NUMBER: every version that is kept under the same SOP Instance UID."""
        visitor, number = visitor_of(request), request.path_params["number"]
        with self._access.db.reading() as conn:
            versions = queries.versions(conn, number)
            numbers = queries.study_numbers(conn, versions)
        if not versions:
            return self._pages.render(request, "missing.html", code=404)
        if visitor.sees_patients:
            looks = self._access.looks
            looks.record_objects(self._access.db, visitor, "a comparison of versions", versions, numbers)
        return self._pages.render(
            request,
            "compare.html",
            code=status,
            fault=fault,
            decidable=next((each for each in versions if each.id == number and _can_decide(each)), None),
            overwrites=undecided.overwrites(versions, number),
            versions=versions,
            numbers=numbers,
            asked=number,
            rows=self._rows(versions, masked=not visitor.sees_patients),
        )

    def _rows(self, versions: Sequence[Instance], *, masked: bool) -> list[Row]:
        attributes = [self._header(each) for each in versions]
        rows = []
        for keyword in (*instance_header.ABOUT_PATIENTS, *instance_header.ABOUT_IMAGES):
            values = [None if found is None else found.get(keyword) for found in attributes]
            if any(values):
                rows.append(_row(keyword, values, masked=masked and keyword not in instance_header.TECHNICAL))
        technical = {
            "sha256": [each.sha256[:16] for each in versions],
            "size": [size(each.size) for each in versions],
            "from": [printable(f"{each.calling_ae} at {each.address}") for each in versions],
        }
        return [*rows, *(Row(name, told, len(set(told)) > 1, False) for name, told in technical.items())]

    def _header(self, instance: Instance) -> dict[str, Values] | None:
        try:
            return instance_header.read(
                self._access.spool, instance, {*instance_header.ABOUT_PATIENTS, *instance_header.ABOUT_IMAGES}
            )
        except (Unreadable, OSError):
            return None  # the file is gone, or nobody can read it: the row says so


def _can_decide(instance: Instance) -> bool:
    is_kept = instance.state is InstanceState.DISCARDED and instance.deleted_at is None
    return is_kept or undecided.is_undecided(instance)


def _row(keyword: str, values: Sequence[Values | None], *, masked: bool) -> Row:
    told = ["-" if value is None else printable("\\".join(map(marked, value))) for value in values]
    differs = len(set(told)) > 1
    if masked:
        told = ["•••" for _ in told]
    return Row(keyword, told, differs, masked)
