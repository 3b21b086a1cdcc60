"""The worklist that modalities are served, with its age, and the earlier studies that are fetched for it."""

from __future__ import annotations

import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import MASK, ConsolePage
from edge.monitor.worklist import read_worklist_state
from edge.query.listing import MOST_LISTED_ITEMS, ListedItem, list_worklist
from edge.store.prefetch import PREFETCH_COLUMNS, ListedPrefetch, list_prefetches
from edge.text import mask_uids
from edge.web.guard import visitor_of
from edge.web.listing import SortKeys, cut_page, read_list_page, read_view

#: Column -> what it is sorted by.
_COLUMNS: SortKeys[ListedItem] = {
    "scheduled": lambda each: each.scheduled,
    "status": lambda each: each.status,
    "modality": lambda each: each.modality,
    "station": lambda each: each.station_ae,
    "accession": lambda each: each.accession,
    "patient": lambda each: each.patient_name,
    "procedure": lambda each: each.procedure,
}


class WorklistPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /worklist. Who may not see patient data sees stations and times alone."""
        config, now, visitor = self._access.config(), time.time(), visitor_of(request)
        view = read_view(request, "/worklist", _COLUMNS, ("status",))
        earlier = read_view(request, "/worklist", PREFETCH_COLUMNS, name="earlier")
        with self._access.db.reading() as conn:
            state = read_worklist_state(conn, config, now)
            items, has_more = list_worklist(conn)
            prefetches = read_list_page(list_prefetches(conn), earlier)
        self._access.views.record_page(visitor, "worklist page")
        chosen = [each for each in items if view.choice("status") in ("", each.status)]
        page = cut_page(chosen, view, _COLUMNS)
        if not visitor.sees_patients:
            page, prefetches = page.map(_mask), prefetches.map(_mask_prefetch)
        return self._pages.render(
            request,
            "worklist.html",
            worklist=state,
            age=None if state.as_of is None else now - state.as_of,
            view=view,
            page=page,
            statuses=sorted({each.status for each in items}),
            earlier=earlier,
            prefetches=prefetches,
            source=config.destinations.get(state.source),
            most=MOST_LISTED_ITEMS if has_more else 0,
        )


def _mask(each: ListedItem) -> ListedItem:
    return replace(each, accession=MASK, patient_id=MASK, patient_name=MASK, procedure=MASK)


def _mask_prefetch(each: ListedPrefetch) -> ListedPrefetch:
    return replace(each, study_uid=mask_uids(each.study_uid))
