"""Studies: search, where each is, instance by instance, and its custody.

A search never stands in an address (browsers and proxies keep those): it is kept with the session. Patient data is
shown to operators only; what is shown is recorded before, by study.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import Access
from edge.model import DeliveryState
from edge.monitor import custody
from edge.monitor.custody import Event
from edge.store import queries
from edge.store.patients import words_for
from edge.store.queries import Delivery, Instance, Search, Study
from edge.store.study_patients import StudyPatient, differing
from edge.text import for_everybody
from edge.web.guard import Visitor, visitor_of
from edge.web.pages import Pages

LIMIT = 100
#: More instances of one study are counted, not listed.
MOST_INSTANCES = 600
MASK = "•••"
_DATES = {"date_from", "date_to"}


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study in the list; `where` says for each destination how far it is: (destination, level, words)."""

    study: Study
    where: list[tuple[str, str, str]]
    others: tuple[StudyPatient, ...]  # patients beside the first that are not the same


class Studies:
    def __init__(self, access: Access, pages: Pages) -> None:
        self._access, self._pages = access, pages

    def search(self, request: Request) -> Response:
        """POST /studies/search: keep what is asked for, and show what meets it."""
        visitor = visitor_of(request)
        assert visitor.session is not None
        given = {name: visitor.field(name)[:64] for name in asdict(Search())}
        given = {name: re.sub(r"\D", "", value) if name in _DATES else value for name, value in given.items()}
        visitor.session.kept["search"] = _allowed(Search(**given), visitor)
        return RedirectResponse("/studies", 303)

    def index(self, request: Request) -> Response:
        """GET /studies."""
        visitor = visitor_of(request)
        search = visitor.session.kept.get("search", Search()) if visitor.session else Search()
        with self._access.db.reading() as conn:
            found = queries.find_studies(conn, _allowed(search, visitor), LIMIT)
        self._look(visitor, [study.id for study in found], "a list of studies")
        return self._pages.render(
            request,
            "studies.html",
            search=search,
            lines=[_line(_shown(study, visitor)) for study in found],
            full=len(found) == LIMIT,
            empty=search == Search(),
        )

    def show(self, request: Request) -> Response:
        """GET /studies/NUMBER; with `?proof=1` the ledger's chain is checked as well, which takes a while."""
        visitor, number = visitor_of(request), request.path_params["number"]
        with self._access.db.reading() as conn:
            study = queries.study_numbered(conn, number)
            if study is None:
                return self._pages.render(request, "missing.html", code=404)
            instances = queries.instances_of(conn, study.id)
            proof = custody.custody(conn, study.study_uid) if request.query_params.get("proof") else None
            events = custody.events_of(conn, study.id)
        self._look(visitor, [study.id], "the page of the study")
        shown = _shown(study, visitor)
        return self._pages.render(
            request,
            "study.html",
            study=shown,
            several=differing(shown.patients),
            words_for=words_for,
            where=_where(study),
            instances=instances[:MOST_INSTANCES],
            squares=_squares(instances),
            troubled=[each for each in instances if each.state.value not in ("stored", "evicted")],
            events=_alike(events),
            proof=proof,
            reasons=_reasons(instances, visitor),
            more=max(0, len(instances) - MOST_INSTANCES),
        )

    def _look(self, visitor: Visitor, studies: Iterable[int], how: str) -> None:
        if visitor.sees_patients:
            self._access.looks.record(self._access.db, visitor, how, studies=studies)


def _allowed(search: Search, visitor: Visitor) -> Search:
    """Who may not see patients may not find them by asking, either."""
    return search if visitor.sees_patients else Search(modality=search.modality)


def _shown(study: Study, visitor: Visitor) -> Study:
    if visitor.sees_patients:
        people = [replace(each, patient_name=_spoken(each.patient_name)) for each in study.patients]
        return replace(study, patient_name=_spoken(study.patient_name), patients=tuple(people))
    return replace(
        study,
        patient_id=MASK,
        patient_name=MASK,
        accession=MASK,
        study_date=MASK,
        description=MASK,
        study_uid=MASK,
        patients=tuple(_masked(each) for each in study.patients),
        guessed=(),
    )


def _masked(patient: StudyPatient) -> StudyPatient:
    return StudyPatient(MASK, MASK, MASK, MASK, MASK, MASK, patient.standing, patient.differs_in, patient.images)


def _spoken(name: str) -> str:
    return name.replace("^", " ").strip()


def _line(study: Study) -> StudyRow:
    return StudyRow(study, _where(study), differing(study.patients)[1:])


def _where(study: Study) -> list[tuple[str, str, str]]:
    return [(name, *progress(counts)) for name, counts in sorted(study.deliveries.items())]


def progress(counts: Mapping[str, int]) -> tuple[str, str]:
    """How far a study is on its way to one destination: (level, words)."""
    total = sum(counts.values())
    done, sent = counts.get("confirmed", 0), counts.get("sent", 0)
    if held := counts.get("held", 0):
        return "warn", f"{held} of {total} held"
    if done == total:
        return "good", f"all {total} there" if total > 1 else "there"
    if done + sent == total:
        return "idle", f"sent, {sent} of {total} to be proved"
    if deferred := counts.get("deferred", 0):
        return "warn", f"{deferred} of {total} to be tried again"
    return "idle", f"{done + sent} of {total} sent"


def _squares(instances: Sequence[Instance]) -> dict[str, list[tuple[str, str]]]:
    """For each destination, one (state, words) for each instance."""
    names = sorted({name for each in instances for name in each.deliveries})
    shown = instances[: MOST_INSTANCES * 3]
    return {
        name: [_square(i, each.deliveries[name].state) for i, each in enumerate(shown, 1) if name in each.deliveries]
        for name in names
    }


def _square(number: int, state: DeliveryState) -> tuple[str, str]:
    return state.value, f"image {number}: {state.value}"


def _reasons(instances: Sequence[Instance], visitor: Visitor) -> list[tuple[str, str, int]]:
    """(destination, why it is not there, how many), the most frequent first."""
    found = Counter(
        (name, _with_peer_text(each) if visitor.sees_patients else for_everybody(each.reason))
        for instance in instances
        for name, each in instance.deliveries.items()
        if each.reason and each.state is not DeliveryState.CONFIRMED
    )
    return [(name, reason, n) for (name, reason), n in found.most_common(8)]


def _with_peer_text(each: Delivery) -> str:
    """Why, and what the destination said of it in its own words."""
    return f'{each.reason}: "{each.peer_text}"' if each.peer_text else each.reason


def _alike(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Rows of the ledger that say the same, together, in the order in which they began."""
    groups: dict[tuple[str, str, str], list[Event]] = {}
    for event in events:
        groups.setdefault((event.event, event.who, event.destination), []).append(event)
    return [
        {
            "event": rows[0].event,
            "who": rows[0].who,
            "destination": rows[0].destination,
            "images": len({instance for row in rows for instance in row.instances}),
            "first": rows[0].at,
            "last": rows[-1].at,
            "rows": len(rows),
            "details": list(dict.fromkeys(row.detail for row in rows if row.detail))[:3],
        }
        for rows in groups.values()
    ]
