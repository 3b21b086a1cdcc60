"""All pages for people, as one ASGI application behind the guard."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from edge.console.access import Access
from edge.console.accounts import CatalogAccounts
from edge.console.dry_run import Rehearsal
from edge.console.instance_exceptions import Troubles
from edge.console.overview import Overview
from edge.console.queue import Work
from edge.console.settings import Settings
from edge.console.studies import Studies
from edge.shares import ProvenCallers
from edge.web.accounts import Role
from edge.web.guard import Guard, Rules, needs, open_to_all
from edge.web.login import Entrance
from edge.web.pages import Pages, Place
from edge.web.sessions import Sessions
from edge.web.setup import Setup

VIEWER, OPERATOR, ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN
PLACES = (
    Place("/", "Overview"),
    Place("/studies", "Studies"),
    Place("/queue", "Queue"),
    Place("/troubles", "Troubles"),
    Place("/configuration", "Configuration"),
    Place("/rehearsal", "Dry run", OPERATOR),
    Place("/accounts", "Accounts", ADMIN),
)


def build(access: Access, setup: Setup, known: ProvenCallers | None = None) -> ASGIApp:
    """The application; `setup` is where the first account is made, `known` where callers are who signed in."""
    pages = Pages(Path(__file__).parent / "templates", PLACES, product="Edge", site=lambda: access.config().site.name)
    rules = _rules(access)
    accounts, sessions = CatalogAccounts(access.db), Sessions(access.config().console.sessions)
    entrance = Entrance(accounts, sessions, pages, setup, rules=rules)
    overview, studies, work = Overview(access, pages), Studies(access, pages), Work(access, pages)
    troubles, settings, rehearsal = Troubles(access, pages), Settings(access, pages), Rehearsal(access, pages)
    post = ["POST"]

    def missing(request: Request) -> Response:
        return pages.render(request, "missing.html", code=404)

    routes = [
        *entrance.routes(),
        Route("/", needs(VIEWER, overview.page)),
        Route("/alerts/acknowledge", needs(OPERATOR, overview.acknowledge), methods=post),
        Route("/studies", needs(VIEWER, studies.index)),
        Route("/studies/search", needs(VIEWER, studies.search), methods=post),
        Route("/studies/{number:number}", needs(VIEWER, studies.show)),
        Route("/queue", needs(VIEWER, work.index)),
        Route("/queue/decide", needs(OPERATOR, work.decide), methods=post),
        Route("/troubles", needs(VIEWER, troubles.index)),
        Route("/troubles/{number:number}", needs(VIEWER, troubles.compare)),
        Route("/troubles/{number:number}/decide", needs(OPERATOR, troubles.decide), methods=post),
        Route("/configuration", needs(VIEWER, settings.show)),
        Route("/rehearsal", needs(OPERATOR, rehearsal.page), methods=["GET", "POST"]),
        Route("/{rest:path}", open_to_all(missing)),
    ]
    return Guard(Starlette(routes=routes), accounts, sessions, rules, known)


def _rules(access: Access) -> Rules:
    config = access.config()
    console = config.console
    return Rules(
        cookie="edge-" + "".join(char for char in config.site.id if char.isascii() and char.isalnum()),
        names=frozenset(name.lower() for name in (*console.names, console.host)),
        user_header=console.user_header,
        proxies=console.proxies,
        default_role=None if console.user_role == "none" else Role[console.user_role.upper()],
        banner=console.banner,
        lock_after=console.lock_after,
        idle=console.idle,
        admin_idle=console.admin_idle,
    )
