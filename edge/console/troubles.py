"""Conflicts, quarantine and lost instances; a conflict's two versions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from edge.console import headers
from edge.console.access import Access
from edge.errors import Unreadable
from edge.model import InstanceState, Values
from edge.ops import listing
from edge.ops.listing import Instance
from edge.ops.words import marked, printable, size
from edge.web.guard import visitor_of
from edge.web.pages import Pages

LIMIT = 100
STATES = {
    InstanceState.LOST: "Lost: the file is gone or damaged",
    InstanceState.CONFLICT: "Conflicts: other bytes under a known SOP Instance UID",
    InstanceState.QUARANTINED: "Quarantine: could not be read or trusted",
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
            found = [(state, text, listing.troubled(conn, state, LIMIT)) for state, text in STATES.items()]
            every = [each for _, _, some in found for each in some]
            numbers = listing.study_numbers(conn, every)
        if visitor.sees_patients:
            looks = self._access.looks
            looks.record_objects(self._access.db, visitor, "the list of conflicts and quarantine", every, numbers)
        return self._pages.render(request, "troubles.html", groups=found, numbers=numbers, limit=LIMIT)

    def compare(self, request: Request) -> Response:
        """GET /troubles/NUMBER: every version that is kept under the same SOP Instance UID."""
        visitor, number = visitor_of(request), request.path_params["number"]
        with self._access.db.reading() as conn:
            versions = listing.versions(conn, number)
            numbers = listing.study_numbers(conn, versions)
        if not versions:
            return self._pages.render(request, "missing.html", code=404)
        if visitor.sees_patients:
            looks = self._access.looks
            looks.record_objects(self._access.db, visitor, "a comparison of versions", versions, numbers)
        return self._pages.render(
            request,
            "compare.html",
            versions=versions,
            numbers=numbers,
            asked=number,
            rows=self._rows(versions, masked=not visitor.sees_patients),
        )

    def _rows(self, versions: Sequence[Instance], *, masked: bool) -> list[Row]:
        attributes = [self._header(each) for each in versions]
        rows = []
        for keyword in (*headers.ABOUT_PATIENTS, *headers.ABOUT_IMAGES):
            values = [None if found is None else found.get(keyword) for found in attributes]
            if any(values):
                rows.append(_row(keyword, values, masked=masked and keyword not in headers.TECHNICAL))
        technical = {
            "sha256": [each.sha256[:16] for each in versions],
            "size": [size(each.size) for each in versions],
            "from": [printable(f"{each.calling_ae} at {each.address}") for each in versions],
        }
        return [*rows, *(Row(name, told, len(set(told)) > 1, False) for name, told in technical.items())]

    def _header(self, instance: Instance) -> dict[str, Values] | None:
        try:
            return headers.read(self._access.spool, instance, {*headers.ABOUT_PATIENTS, *headers.ABOUT_IMAGES})
        except (Unreadable, OSError):
            return None  # the file is gone, or nobody can read it: the row says so


def _row(keyword: str, values: Sequence[Values | None], *, masked: bool) -> Row:
    told = ["-" if value is None else printable("\\".join(map(marked, value))) for value in values]
    differs = len(set(told)) > 1
    if masked:
        told = ["•••" for _ in told]
    return Row(keyword, told, differs, masked)
