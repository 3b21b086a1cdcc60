"""Pages from Jinja templates: one layout, one style sheet, everything escaped, nothing from other servers.

An application brings its templates and its navigation; the layout, the sign-in and the macros are in this package.
Static files are read once; their URLs contain a hash of their content, so that browsers may cache them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from edge import text as words
from edge.web.accounts import UserRole
from edge.web.guard import visitor_of
from edge.web.navigation import NavigationGroup, navigation_for

HERE = Path(__file__).parent
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


class Pages:
    """Renders the templates of an application and of this package."""

    def __init__(
        self, templates: Path, places: Sequence[NavigationGroup], *, product: str, site: Callable[[], str] = lambda: ""
    ) -> None:
        """`site` is the name in every page's header."""
        self._environment = Environment(
            loader=FileSystemLoader([templates, HERE / "templates"]),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self._environment.filters.update(FILTERS)
        self._environment.globals.update(asset=asset, Role=UserRole)
        self._places, self._product, self._site = tuple(places), product, site

    def render(self, request: Request, template: str, *, code: int = 200, **context: Any) -> Response:
        """Return an HTML answer. `context` may contain `notice` and `fault`: sentences."""
        visitor = visitor_of(request)
        is_refresh = "hx-request" in request.headers  # it must not take what the next whole page shows
        kept = visitor.session.kept if visitor.session and visitor.account and not is_refresh else {}
        welcome, notice = kept.pop("welcome", None), kept.pop("notice", "")
        general = {"site": self._site(), "product": self._product, "path": request.url.path, "visitor": visitor}
        general |= {"welcome": welcome, "notice": notice, "fault": "", "now": time.time()}
        if visitor.account:
            general["navigation"] = navigation_for(self._places, visitor.account.role, request.url.path)
        return HTMLResponse(self._environment.get_template(template).render(general | context), code)

    async def render_large(self, request: Request, template: str, **context: Any) -> Response:
        """Return an HTML answer that a thread makes: a page of a thousand rows takes its time."""
        return await to_thread.run_sync(partial(self.render, request, template, **context))

    def render_missing(self, request: Request) -> Response:
        """Return the page for a path or a number that does not exist."""
        return self.render(request, "missing.html", code=404)


# -- static files ------------------------------------------------------------------------------------------------------


@cache
def _static() -> dict[str, tuple[bytes, str]]:
    """Return {name: (content, hash)}; no other file is served."""
    files = [path for path in (HERE / "static").iterdir() if path.suffix in TYPES]
    return {path.name: (path.read_bytes(), hashlib.sha256(path.read_bytes()).hexdigest()[:12]) for path in files}


def asset(name: str) -> str:
    """Return the URL of a static file."""
    return f"/static/{name}?{_static()[name][1]}"


def serve_static(request: Request) -> Response:
    """GET /static/{name}."""
    name = request.path_params["name"]
    if name not in _static():
        return PlainTextResponse("File not found.\n", 404)
    content, _ = _static()[name]
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(content, headers=headers, media_type=TYPES[Path(name).suffix])


# -- filters -----------------------------------------------------------------------------------------------------------


def as_seconds(moment: float | str | None) -> float | None:
    """Convert a time in seconds or in ISO 8601 to seconds since 1970."""
    return words.from_iso(moment) if isinstance(moment, str) else moment


def show_time(moment: float | str | None) -> Markup:
    """Return a time for people: local, with date and zone."""
    seconds = as_seconds(moment)
    if seconds is None:
        return Markup("&ndash;")
    whole, text = words.moment_text(seconds, seconds=True), words.moment_text(seconds)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(words.iso(seconds), whole, text)


def show_age(moment: float | str | None, now: float | None = None) -> str:
    """Return the time since then."""
    seconds = as_seconds(moment)
    return "never" if seconds is None else words.span((time.time() if now is None else now) - seconds)


def mark_code(text: str) -> Markup:
    """Mark the text between backticks as code."""
    parts = [str(escape(part)) for part in text.split("`")]
    return Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def show_date(text: str) -> str:
    """Return a DICOM date (PS3.5 section 6.2, DA) as people read it; other text unchanged."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else words.printable(text)


def show_person(name: str) -> str:
    """Return a person's name (PS3.5 section 6.2.1, PN) as people read it."""
    return words.printable(" ".join(name.replace("^", " ").replace("=", " ").split()))


def _or_dash(show: Callable[[Any], str]) -> Callable[[Any], str]:
    """What shows a value, or a dash where it is not known."""
    return lambda value: "\N{EN DASH}" if value is None else show(value)


FILTERS = {
    "sentence": words.as_sentence,
    "person": show_person,
    "date": show_date,
    "code": mark_code,
    "clock": show_time,
    "ago": show_age,
    "span": _or_dash(words.span),
    "size": _or_dash(words.size),
    "percent": _or_dash(words.percent),
    "counted": words.amount,
    "printable": words.printable,
    "mask_uids": words.mask_uids,
    "pairs": lambda names: [(name, name) for name in names],
    "scheduled": words.scheduled_text,
    "number": _or_dash("{:,}".format),
}
