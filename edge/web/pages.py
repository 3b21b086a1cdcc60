"""Pages from Jinja templates: one layout, one style sheet, escaped throughout, nothing from elsewhere.

An application brings its templates and its navigation; the layout, the sign-in and the macros are here. Static files
are few: they are read once, and their addresses carry a hash of their content, so that browsers may keep them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from edge import text as words
from edge.web import plot
from edge.web.accounts import Role
from edge.web.guard import visitor_of

HERE = Path(__file__).parent
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of the navigation."""

    path: str
    label: str
    role: Role = Role.VIEWER


class Pages:
    """Renders templates of `templates` and of this package."""

    def __init__(
        self, templates: Path, places: Sequence[Place], *, product: str, site: Callable[[], str] = lambda: ""
    ) -> None:
        """`site` is named in every page's header."""
        self._environment = Environment(
            loader=FileSystemLoader([templates, HERE / "templates"]),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self._environment.filters.update(FILTERS)
        self._environment.globals.update(asset=asset, plot=plot, Role=Role)
        self._places, self._product, self._site = tuple(places), product, site

    def render(self, request: Request, template: str, *, code: int = 200, **context: Any) -> Response:
        """An HTML answer. `context` may give `notice` and `fault`: sentences."""
        visitor = visitor_of(request)
        given: Mapping[str, Any] = {"site": self._site(), "notice": "", "fault": "", "now": time.time(), **context}
        welcome = visitor.session.kept.pop("welcome", None) if visitor.session and visitor.account else None
        text = self._environment.get_template(template).render(
            visitor=visitor,
            csrf=visitor.csrf,
            product=self._product,
            path=request.url.path,
            welcome=welcome,
            places=[place for place in self._places if visitor.may(place.role)],
            **given,
        )
        return HTMLResponse(text, code)


# -- static files ------------------------------------------------------------------------------------------------------


@cache
def _static() -> dict[str, tuple[bytes, str]]:
    """Name -> content and hash; there is nothing else to be had."""
    files = [path for path in (HERE / "static").iterdir() if path.suffix in TYPES]
    return {path.name: (path.read_bytes(), hashlib.sha256(path.read_bytes()).hexdigest()[:12]) for path in files}


def asset(name: str) -> str:
    """The address of a static file."""
    return f"/static/{name}?{_static()[name][1]}"


def static(request: Request) -> Response:
    """GET /static/{name}."""
    name = request.path_params["name"]
    if name not in _static():
        return PlainTextResponse("There is no such file.\n", 404)
    content, _ = _static()[name]
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(content, headers=headers, media_type=TYPES[Path(name).suffix])


# -- how things are said -----------------------------------------------------------------------------------------------


def as_seconds(moment: float | str | None) -> float | None:
    """Seconds since 1970 from either way in which moments are told."""
    return words.from_iso(moment) if isinstance(moment, str) else moment


def clock(moment: float | str | None, now: float | None = None) -> Markup:
    """A moment as people say it: the time of day if it is today, else the day too; local time."""
    seconds = as_seconds(moment)
    if seconds is None:
        return Markup("&ndash;")
    then = datetime.fromtimestamp(seconds).astimezone()
    today = datetime.fromtimestamp(time.time() if now is None else now).astimezone()
    if then.date() == today.date():
        text = then.strftime("%H:%M")
    elif abs((today - then).days) < 300:
        text = then.strftime("%a %-d %b %H:%M")
    else:
        text = then.strftime("%-d %b %Y %H:%M")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        words.iso(seconds), then.strftime("%Y-%m-%d %H:%M:%S %Z"), text
    )


def ago(moment: float | str | None, now: float | None = None) -> str:
    seconds = as_seconds(moment)
    return "never" if seconds is None else words.span((time.time() if now is None else now) - seconds)


def code(text: str) -> Markup:
    """What stands between backticks is for typing."""
    parts = [str(escape(part)) for part in text.split("`")]
    return Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def date(text: str) -> str:
    """A DICOM date (PS3.5 section 6.2, DA) as people read it; what is none stays as it is."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else words.printable(text)


FILTERS = {
    "date": date,
    "code": code,
    "clock": clock,
    "ago": ago,
    "span": words.span,
    "size": words.size,
    "percent": words.percent,
    "counted": words.counted,
    "printable": words.printable,
    "for_everybody": words.for_everybody,
    "number": lambda n: f"{n:,}",
}
