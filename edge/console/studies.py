"""Studies: search, the state of each at its destinations, instance by instance, and its custody record.

A search is stored in the session, never in a URL, which browsers and proxies keep. Only operators see patient data;
each access is recorded by study, before the page is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from edge.console.access import MASK, ConsolePage, read_reason
from edge.console.dates import DateFault, read_dates, today_here
from edge.console.study_dose import read_study_dose
from edge.console.study_identity import mask_identity, preview_first_image, read_identity_view
from edge.errors import EdgeError
from edge.model import DeliveryState
from edge.monitor import custody
from edge.monitor.custody import Event, group_events
from edge.monitor.figures import dose_reports_of
from edge.storage.file_set import file_set_uid, read_todays_patients, zip_parts
from edge.store import legal_holds, queries
from edge.store.patients import words_for
from edge.store.queries import Delivery, Instance
from edge.store.series_list import list_study_series
from edge.store.studies import STUDY_LIST_COLUMNS, Search, Study, find_studies, study_numbered
from edge.store.study_patients import StudyPatient, list_differing_patients
from edge.text import amount, end_of_date, mask_uids
from edge.web.guard import Visitor, visitor_of
from edge.web.listing import read_list_page, read_view
from edge.web.pages import show_date

#: More instances of one study are amount, not listed.
_MOST_INSTANCES = 600


class Studies(ConsolePage):
    def search(self, request: Request) -> Response:
        """POST /studies/search: store the search in the session, and show what matches."""
        visitor = visitor_of(request)
        assert visitor.session is not None
        written = {name: visitor.field(name)[:64] for name in asdict(Search())}
        try:
            search = Search(**written | read_dates(written["date_from"], written["date_to"], today_here()))
        except DateFault as error:
            return self.index(request, fault=str(error), code=422, written=Search(**written))
        visitor.session.kept["search"], visitor.session.kept["search as written"] = search, Search(**written)
        return RedirectResponse("/studies?page=1", 303)

    def index(self, request: Request, fault: str = "", code: int = 200, written: Search | None = None) -> Response:
        """GET /studies; `sort`, `down` and `page` are the list's."""
        visitor = visitor_of(request)
        kept = visitor.session.kept if visitor.session else {}
        search = kept.get("search", Search())
        written = written or kept.get("search as written", search)
        if not visitor.sees_patients:  # a match would reveal what is masked
            search = written = Search(modality=search.modality)
        view = read_view(request, "/studies", STUDY_LIST_COLUMNS)
        is_settled = self._access.command("settle", {})["settled"]
        with self._access.db.reading() as conn:
            page = read_list_page(find_studies(conn, search), view)
        self._access.views.record(visitor, "a list of studies", studies=[study.id for study in page.rows])
        return self._pages.render(
            request,
            "studies.html",
            code=code,
            fault=fault,
            search=written,
            view=view,
            is_settled=is_settled,
            page=page.map(lambda study: _prepare(study, visitor)),
            progress_of=list_progress,
            differing_patients=list_differing_patients,
            described=describe_search(search),
            empty=search == Search(),
        )

    def decide_hold(self, request: Request) -> Response:
        """POST /studies/NUMBER/hold: place the study under a legal hold, or release it."""
        visitor, number = visitor_of(request), request.path_params["number"]
        reason, until = read_reason(visitor), visitor.field("until")
        with self._access.db.reading() as conn:
            study = study_numbered(conn, number)
        if study is None:
            return self._pages.render_missing(request)
        fields: dict[str, Any] = {"study_uid": study.study_uid, "reason": reason, "who": visitor.name}
        try:
            if visitor.field("what") == "release":
                self._access.command("study-unhold", fields)
            else:
                self._access.command("study-hold", fields | {"ends_at": end_of_date(until) if until else None})
        except (EdgeError, ValueError) as error:
            return self.show(request, fault=str(error), code=422)
        visitor.leave_notice("The legal hold is recorded.")
        return RedirectResponse(f"/studies/{number}", 303)

    def send(self, request: Request) -> Response:
        """POST /studies/NUMBER/send: queue the study for a destination."""
        visitor, number = visitor_of(request), request.path_params["number"]
        fields = {"study": number, "destination": visitor.field("to"), "who": visitor.name}
        fields |= {"reason": read_reason(visitor), "again": visitor.field("again") == "1"}
        try:
            answer = self._access.command("study-send", fields)
        except EdgeError as error:
            return self.show(request, fault=str(error), code=422)
        left = amount(answer["undecided"], "image") if answer["undecided"] else ""
        more = f" {left} need a decision first." if left else ""
        visitor.leave_notice(f"{amount(answer['queued'], 'image')} queued for {fields['destination']}.{more}")
        return RedirectResponse(f"/studies/{number}", 303)

    def export(self, request: Request) -> Response:
        """POST /studies/NUMBER/export: the study as a ZIP archive with a DICOMDIR."""
        visitor, number = visitor_of(request), request.path_params["number"]
        with self._access.db.reading() as conn:
            study = study_numbered(conn, number)
            instances = queries.instances_of(conn, number)
            today = read_todays_patients(conn, self._access.config(), instances)
        if study is None or not instances:
            return self._pages.render_missing(request)
        where = f"a browser at {visitor.address}"
        fields = {"study": number, "ids": [each.id for each in instances], "where": where, "who": visitor.name}
        self._access.command("study-exported", fields)
        parts = zip_parts(self._access.spool.root, instances, file_set_uid(study.study_uid), today)
        headers = {"content-disposition": f'attachment; filename="study-{number}.zip"'}
        return StreamingResponse(parts, media_type="application/zip", headers=headers)

    def show(self, request: Request, fault: str = "", code: int = 200) -> Response:
        """GET /studies/NUMBER; with `?proof=1` also verify the ledger's chain, which takes seconds."""
        visitor, number = visitor_of(request), request.path_params["number"]
        is_settled = self._access.command("settle", {})["settled"]
        with self._access.db.reading() as conn:
            study = study_numbered(conn, number)
            if study is None:
                return self._pages.render_missing(request)
            instances = queries.instances_of(conn, study.id)
            proof = custody.custody(conn, study.study_uid) if request.query_params.get("proof") else None
            events = custody.events_of(conn, study.id)
            identity = read_identity_view(conn, study)
            holds = legal_holds.list_holds(conn, ended=True, study_uid=study.study_uid)
            series = list_study_series(conn, study.id) if visitor.sees_patients else []
            doses = [self._access.spool.path_of(each) for each in dose_reports_of(conn, study.id)]
        only_rejected = request.query_params.get("images") == "rejected"
        listed = [each for each in instances if each.rejected] if only_rejected else instances
        self._access.views.record(visitor, "the page of the study", studies=[study.id])
        shown = _prepare(study, visitor)
        if visitor.sees_patients:
            identity = replace(identity, preview=preview_first_image(self._access, study, instances))
        else:
            identity = mask_identity(identity)
        return self._pages.render(
            request,
            "study.html",
            code=code,
            fault=fault,
            destination_names=list(self._access.config().destinations),
            study=shown,
            is_settled=is_settled,
            several=list_differing_patients(shown.patients),
            words_for=words_for,
            progress=list_progress(study),
            instances=listed[:_MOST_INSTANCES],
            only_rejected=only_rejected,
            squares=_squares(instances),
            events=_group(events),
            proof=proof,
            holds=holds,
            dose=read_study_dose(doses) if doses else None,
            identity=identity,
            series=series,
            reasons=_reasons(instances, visitor),
            more=max(0, len(listed) - _MOST_INSTANCES),
        )


def describe_search(search: Search) -> list[str]:
    """Say what a search asks for, field by field, for a list that is empty."""
    names = {"patient_name": "name", "patient_id": "patient ID", "study_uid": "UID"}
    said = [
        f'{names.get(field, field)} "{value}"'
        for field, value in asdict(search).items()
        if value and field not in ("date_from", "date_to")
    ]
    if search.date_from:
        said.append(f"study date from {show_date(search.date_from)}")
    if search.date_to:
        said.append(f"study date to {show_date(search.date_to)}")
    return said


def _prepare(study: Study, visitor: Visitor) -> Study:
    """Return a study as the visitor may see it."""
    if visitor.sees_patients:
        return study
    masked: dict[str, Any] = dict.fromkeys(("patient_id", "patient_name", "accession", "study_date"), MASK)
    masked |= {"description": MASK, "study_uid": MASK, "guessed": (), "patient_today": {}}
    return replace(study, **masked, patients=tuple(_mask(each) for each in study.patients))


def _mask(patient: StudyPatient) -> StudyPatient:
    return StudyPatient(MASK, MASK, MASK, MASK, MASK, MASK, patient.standing, patient.differs_in, patient.images)


def list_progress(study: Study) -> list[tuple[str, str, str]]:
    """List (destination, level, text) for each destination of a study."""
    return [(name, *_progress(counts)) for name, counts in sorted(study.deliveries.items())]


def _progress(counts: Mapping[str, int]) -> tuple[str, str]:
    """Return (level, text) from the number of deliveries in each state."""
    total = sum(counts.values())
    confirmed, sent = counts.get("confirmed", 0), counts.get("sent", 0)
    if held := counts.get("held", 0):
        return "warn", f"{held} of {total} held"
    if confirmed == total:
        return "good", f"all {total} confirmed" if total > 1 else "confirmed"
    if confirmed + sent == total:
        return "idle", f"sent; {sent} of {total} not confirmed yet"
    if deferred := counts.get("deferred", 0):
        return "warn", f"{deferred} of {total} deferred, retried automatically"
    return "idle", f"{confirmed + sent} of {total} sent"


def _squares(instances: Sequence[Instance]) -> dict[str, list[tuple[str, str]]]:
    """Return for each destination one (state, title) per instance."""
    names = sorted({name for each in instances for name in each.deliveries})
    squares: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
    for number, instance in enumerate(instances[: _MOST_INSTANCES * 3], 1):
        for name, delivery in instance.deliveries.items():
            squares[name].append((delivery.state.value, f"image {number}: {delivery.state.label}"))
    return squares


def _reasons(instances: Iterable[Instance], visitor: Visitor) -> list[tuple[str, str, int]]:
    """List (destination, why images are not confirmed, number of images), the most frequent first."""
    found = Counter(
        (name, _with_peer_text(each) if visitor.sees_patients else mask_uids(each.public_reason))
        for instance in instances
        for name, each in instance.deliveries.items()
        if each.reason and each.state is not DeliveryState.CONFIRMED
    )
    return [(name, reason, n) for (name, reason), n in found.most_common(8)]


def _with_peer_text(each: Delivery) -> str:
    return f'{each.reason}: "{each.peer_text}"' if each.peer_text else each.reason


def _group(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [
        {
            "event": rows[0].event,
            "who": rows[0].who,
            "destination": rows[0].destination,
            "images": len({instance for row in rows for instance in row.instances}),
            "first": rows[0].at,
            "last": rows[-1].at,
            "rows": len(rows),
            "details": list(dict.fromkeys(row.words for row in rows if row.words))[:3],
        }
        for rows in group_events(events)
    ]
