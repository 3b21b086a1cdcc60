"""The guide and the pages of the alerts, as the console serves and the command prints them.

They are the Markdown files of docs/: installed, they are in this package. No page names a patient, and none needs a
sign-in: who opens the link in a mail at night reads at once what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from edge.web.pages import Pages

_INSTALLED = Path(__file__).parent / "help"
_SOURCE = Path(__file__).parents[2] / "docs"
#: The parts that are served.
HELP_SECTIONS = ("guide", "alerts")
_NAME = re.compile(r"[a-z0-9-]+")
_PICTURE = re.compile(r"[a-z0-9-]+\.png")
_LINK = re.compile(r'(href|src)="(?!https?:|#|/)([^"]+)"')


@cache
def guide_folder() -> Path:
    """Where the pages are: in the package, or in the repository."""
    return _INSTALLED if _INSTALLED.is_dir() else _SOURCE


def read_page(section: str, name: str) -> str | None:
    """The Markdown of a page; None: there is none. "README" is the index of a section."""
    if section not in HELP_SECTIONS or not (name == "README" or _NAME.fullmatch(name)):
        return None
    try:
        return (guide_folder() / section / f"{name}.md").read_text("utf-8")
    except OSError:
        return None


def page_names(section: str) -> list[str]:
    """The pages of a section, without its index."""
    return sorted(path.stem for path in (guide_folder() / section).glob("*.md") if path.stem != "README")


def render_page(section: str, text: str) -> Markup:
    """A page as HTML, with its links as the console has them."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return Markup(_LINK.sub(lambda found: f'{found[1]}="{_address_of(section, found[2])}"', html))


def _address_of(section: str, link: str) -> str:
    """Where a relative link of a page leads; what is served nowhere leads to the index."""
    path, _, _ = link.partition("#")
    parts = [part for part in path.split("/") if part not in (".", "..", "")]
    if len(parts) > 1 and parts[0] in HELP_SECTIONS:
        section, parts = parts[0], parts[1:]
    if len(parts) != 1 or (path.startswith("../") and link.count("/") == 1):
        return "/help"
    if _PICTURE.fullmatch(parts[0]):
        return f"/help/{section}/{parts[0]}"
    name = parts[0].removesuffix(".md")
    return f"/help/{section}" if name == "README" else f"/help/{section}/{name}"


class Help:
    """The handlers of /help."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def show(self, request: Request) -> Response:
        """GET /help, /help/SECTION, /help/SECTION/NAME."""
        section = request.path_params.get("section", "guide")
        name = request.path_params.get("name", "README")
        if _PICTURE.fullmatch(name) and section in HELP_SECTIONS:
            path = guide_folder() / section / name
            return FileResponse(path, media_type="image/png") if path.is_file() else self._pages.render_missing(request)
        text = read_page(section, name)
        if text is None:
            return self._pages.render_missing(request)
        title = next(_headings(text), "Help")
        return self._pages.render(request, "help.html", content=render_page(section, text), title=title)


def _headings(text: str) -> Iterator[str]:
    return (line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#"))
