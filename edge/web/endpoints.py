"""Endpoints of pages: which visitor may open one, in which thread it is built, and numbers in its path."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from urllib.parse import quote

from anyio import to_thread
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from edge.errors import EdgeError
from edge.web.accounts import UserRole
from edge.web.guard import visitor_of


class _RowNumber(IntegerConvertor):
    """`{id:number}` in a route: the number of a row. A path with more digits than a database takes does not match."""

    regex = "[0-9]{1,18}"


register_url_convertor("number", _RowNumber())


def row_number(text: str) -> int:
    """Parse the number of a row. Raises ValueError if it is none, or has more digits than a database takes."""
    if not re.fullmatch(_RowNumber.regex, text):
        raise ValueError("expected a number")
    return int(text)


PageHandler = Callable[[Request], Response | Awaitable[Response]]
PageEndpoint = Callable[[Request], Awaitable[Response]]


def open_to_all(handler: PageHandler) -> PageEndpoint:
    """Return the endpoint of a page that needs no sign-in and shows no patient data. Async, or run in a thread."""

    async def endpoint(request: Request) -> Response:
        try:
            if iscoroutinefunction(handler):
                return await handler(request)  # type: ignore[no-any-return]
            return await to_thread.run_sync(handler, request)  # type: ignore[arg-type]
        except EdgeError as error:  # our own text, without patient data
            return PlainTextResponse(f"{error}\n", 503)

    return endpoint


def needs(role: UserRole, handler: PageHandler) -> PageEndpoint:
    """Return the endpoint of a page for a role and those above it. The handler runs in a thread."""
    permitted = open_to_all(handler)

    async def endpoint(request: Request) -> Response:
        account = visitor_of(request).account
        if account is None:
            return _redirect_to_sign_in(request)
        if account.role < role:
            text = f"This page requires the role {role.name.lower()}; you have the role {account.role.name.lower()}.\n"
            return PlainTextResponse(text, 403)
        return await permitted(request)

    return endpoint


def _redirect_to_sign_in(request: Request) -> Response:
    if "hx-request" in request.headers:  # the whole page must go there, not the part that refreshes itself
        return Response(status_code=204, headers={"hx-refresh": "true"})
    url = request.url
    wanted = f"{url.path}?{url.query}".rstrip("?") if request.method == "GET" else "/"
    return RedirectResponse(f"/sign-in?to={quote(wanted)}" if wanted != "/" else "/sign-in", 303)
