"""The statements of DICOM conformance and IHE integration, as files from the configuration page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.console.statements import FORMATS, STATEMENTS, make_statement, render_document

_MEDIA = {"md": "text/markdown", "html": "text/html", "json": "application/json"}


class StatementPage(ConsolePage):
    def file(self, request: Request) -> Response:
        """GET /statement/KIND.FORMAT."""
        kind, form = request.path_params["kind"], request.path_params["form"]
        if kind not in STATEMENTS or form not in FORMATS:
            return self._pages.render_missing(request)
        text = render_document(make_statement(kind, self._access.config()), form)
        headers = {"content-disposition": f'attachment; filename="edge-{kind}.{form}"'}
        return Response(text, headers=headers, media_type=f"{_MEDIA[form]}; charset=utf-8")
