"""The worklist that modalities are served, with its age, and the earlier studies that are fetched for it."""

from __future__ import annotations

import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import MASK, ConsolePage
from edge.monitor.worklist import read_worklist_state
from edge.query.listing import list_item
from edge.query.worklist import decode_item
from edge.store import prefetch, worklist
from edge.text import mask_uids
from edge.web.guard import visitor_of

_MOST_SHOWN = 500


class WorklistPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /worklist. Who may not see patient data sees stations and times alone."""
        config, now, visitor = self._access.config(), time.time(), visitor_of(request)
        with self._access.db.reading() as conn:
            state = read_worklist_state(conn, config, now)
            rows = worklist.read_items(conn, None, _MOST_SHOWN)
            prefetches = prefetch.list_prefetches(conn, 50)
        self._access.views.record_page(visitor, "worklist page")
        found = [list_item(decode_item(row.body, row.charset, row.performed)) for row in rows]
        if not visitor.sees_patients:
            found = [
                replace(each, accession=MASK, patient_id=MASK, patient_name=MASK, procedure=MASK) for each in found
            ]
            prefetches = [replace(each, study_uid=mask_uids(each.study_uid)) for each in prefetches]
        return self._pages.render(
            request,
            "worklist.html",
            worklist=state,
            age=None if state.as_of is None else now - state.as_of,
            items=found,
            prefetches=prefetches,
            source=config.destinations.get(state.source),
            full=len(rows) == _MOST_SHOWN,
        )
