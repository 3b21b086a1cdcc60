"""The centre's page of notifications: what waits for each channel, and what a person decides about what is parked."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from edge.central import notifications
from edge.central.access import CentralPage
from edge.store import outbox
from edge.web.guard import visitor_of

#: Messages that the page shows; `edge central notify list` has all.
MOST_ROWS = 500


class NotificationPage(CentralPage):
    async def list_channels(self, request: Request) -> Response:
        """What waits for each channel, and what is parked."""
        found, messages = await self._store.read(lambda conn: (outbox.backlogs(conn), outbox.lines(conn, MOST_ROWS)))
        return await self._pages.render_large(request, "notifications.html", channels=found, messages=messages)

    async def decide_parked(self, request: Request) -> Response:
        """Send a channel's parked messages again, or discard them."""
        visitor = visitor_of(request)
        decisions = {"retry": notifications.retry_parked, "discard": notifications.discard_messages}
        decision = decisions.get(visitor.field("what"))
        if decision is None:
            return PlainTextResponse("Expected what the page offers.\n", 422)
        await self._store.write(lambda conn: decision(conn, visitor.field("channel"), visitor.name))
        return RedirectResponse("/notifications", 303)
