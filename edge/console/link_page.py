"""The test of a link from the console: the same as `edge link test`."""

from __future__ import annotations

import threading

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.errors import EdgeError
from edge.outbound.echo import proposals_for
from edge.outbound.link_test import CT_IMAGES, DIRECTIVE_SECONDS, TEST_PATIENT, LinkTest, run_link_test
from edge.store import catalog
from edge.web.guard import visitor_of

#: What the page offers to send.
CHOICES = (0, 10, 50, 300)


class LinkPage(ConsolePage):
    _one_at_a_time = threading.Lock()

    def page(self, request: Request) -> Response:
        """GET /links; POST tests one link, which takes as long as the destination needs."""
        config = self._access.config()
        if request.method != "POST":
            return self._show(request)
        visitor = visitor_of(request)
        name, objects = visitor.field("destination"), visitor.field("objects")
        if name not in config.destinations or objects not in map(str, CHOICES):
            return self._show(request, fault="Choose a destination.", code=422)
        if not self._one_at_a_time.acquire(blocking=False):
            return self._show(request, fault="Another link is being tested; try again in a moment.", code=409)
        try:
            with self._access.db.reading() as conn:
                kinds = proposals_for(catalog.kinds(conn))
            found = run_link_test(config, config.destinations[name], kinds, int(objects))
            return self._show(request, chosen=name, found=found)
        except EdgeError as error:
            return self._show(request, fault=str(error), code=502)
        finally:
            self._one_at_a_time.release()

    def _show(
        self, request: Request, *, chosen: str = "", found: LinkTest | None = None, fault: str = "", code: int = 200
    ) -> Response:
        wanted = chosen or request.query_params.get("destination", "")
        return self._pages.render(
            request,
            "links.html",
            code=code,
            destinations=list(self._access.config().destinations.values()),
            chosen=wanted,
            choices=CHOICES,
            found=found,
            patient=TEST_PATIENT,
            images=CT_IMAGES,
            target=DIRECTIVE_SECONDS,
            fault=fault,
        )
