"""The centre as a web application: what sites post to, and what people see.

Heartbeats come straight to the reception; everything else passes the guard of edge.web.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.central.access import CentralAccess
from edge.central.answers import KeptAnswers
from edge.central.bodies import Bodies, BodyRefused
from edge.central.config import CentralConfig
from edge.central.incident_pages import IncidentPages
from edge.central.metrics import MetricsEndpoint
from edge.central.monthly_page import FleetReport
from edge.central.notification_page import NotificationPage
from edge.central.pages import Fleet
from edge.central.planning import MaintenancePlans
from edge.central.question_pages import QuestionPages
from edge.central.receive import HeartbeatEndpoint
from edge.central.site_cards import SiteCards
from edge.central.trends import Trends
from edge.network.shares import ProvenCallers
from edge.store.engine import EngineStore
from edge.web.accounts import Accounts, UserRole
from edge.web.endpoints import needs, open_to_all
from edge.web.guard import Guard, Rules
from edge.web.guide import Help
from edge.web.login import Login
from edge.web.navigation import NavigationEntry, NavigationGroup
from edge.web.pages import Pages
from edge.web.sessions import Sessions
from edge.web.setup import Setup

PLACES = (
    NavigationGroup(
        "Now",
        (
            NavigationEntry("/", "Fleet", also=("/site",)),
            NavigationEntry("/incidents", "Incidents"),
            NavigationEntry("/notifications", "Notifications"),
        ),
    ),
    NavigationGroup(
        "Sites",
        (
            NavigationEntry("/sites", "Sites"),
            NavigationEntry("/ask/equipment", "New equipment"),
            NavigationEntry("/ask/inventory", "Inventory"),
            NavigationEntry("/ask/figures", "Figures"),
            NavigationEntry("/ask/ledgers", "Ledgers"),
        ),
    ),
    NavigationGroup(
        "Capacity",
        (
            NavigationEntry("/ask/filling", "Filling"),
            NavigationEntry("/ask/capacity", "Years to come"),
            NavigationEntry("/ask/announced", "Announced"),
            NavigationEntry("/trends", "Trends"),
        ),
    ),
    NavigationGroup(
        "History",
        (NavigationEntry("/report", "Month"), NavigationEntry("/ask/downtime", "Downtime")),
    ),
    NavigationGroup(
        "Settings",
        (NavigationEntry("/maintenance", "Maintenance"), NavigationEntry("/accounts", "Accounts", UserRole.ADMIN)),
    ),
)


def build(
    reception: HeartbeatEndpoint, pages: ASGIApp, known: ProvenCallers, metrics: MetricsEndpoint | None = None
) -> ASGIApp:
    """The application. `known`: callers that have shown who they are."""
    bodies = Bodies(known)

    async def post(request: Request) -> Response:
        headers = request.headers
        try:
            async with bodies.receive_body(request) as body:
                answer = await reception.take(headers["edge-site"], headers["edge-signature"], body)
        except BodyRefused as refused:
            answer = refused.answer
        if answer.status == 200:
            bodies.note_signed(request)
        return Response(answer.body(), answer.status, media_type="application/json")

    async def alive(_request: Request) -> Response:
        trouble = reception.trouble()
        return PlainTextResponse(f"{trouble or 'alive'}\n", 503 if trouble else 200)

    service = Starlette(
        routes=[
            Route("/heartbeat", post, methods=["POST"]),
            Route("/healthz", alive),
            *([Route("/metrics", metrics.page)] if metrics else []),
            Mount("/", pages),
        ]
    )
    return OneLength(service)


class OneLength:
    """Refuses a request with Content-Length beside Transfer-Encoding, and ends its connection (RFC 9112 section 6.3).

    A proxy before us may have found another end of it than we do.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name.lower() for name, _ in scope["headers"]} if scope["type"] == "http" else set()
        if {b"content-length", b"transfer-encoding"} <= names:
            reason = "Content-Length beside Transfer-Encoding\n"
            await PlainTextResponse(reason, 400, {"Connection": "close"})(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def build_pages(
    store: EngineStore,
    config: Callable[[], CentralConfig],
    accounts: Accounts,
    setup: Setup,
    known: ProvenCallers,
    answers: KeptAnswers | None = None,
) -> ASGIApp:
    """The pages behind the guard; `config` gives the current one, `setup` where the first account is made."""
    pages = Pages(Path(__file__).parent / "templates", PLACES, product="Edge central")
    central = config().central
    rules = Rules.from_section(central, "edge-central", config().client_files()[0])
    sessions = Sessions(central.sessions)
    access = CentralAccess(store, config, pages, answers or KeptAnswers())
    guide = Help(pages)
    routes = [
        *Login(accounts, sessions, pages, setup, rules=rules).routes(),
        *_routes_of_sites(access),
        *_routes_of_incidents(access),
        *_routes_of_answers(access),
        Route("/help", open_to_all(guide.show)),
        Route("/help/{section}", open_to_all(guide.show)),
        Route("/help/{section}/{name}", open_to_all(guide.show)),
        Route("/{rest:path}", open_to_all(pages.render_missing)),
    ]
    return Guard(Starlette(routes=routes), accounts, sessions, rules, known)


def _routes_of_sites(access: CentralAccess) -> list[Route]:
    fleet, trends, plans, cards = Fleet(access), Trends(access), MaintenancePlans(access), SiteCards(access)
    return [
        Route("/", needs(UserRole.VIEWER, fleet.overview)),
        Route("/site/{id}", needs(UserRole.VIEWER, fleet.site)),
        Route("/site/{id}/card", needs(UserRole.OPERATOR, cards.save), methods=["POST"]),
        Route("/sites", needs(UserRole.VIEWER, fleet.table)),
        Route("/trends", needs(UserRole.VIEWER, trends.page)),
        Route("/maintenance", needs(UserRole.VIEWER, plans.index)),
        Route("/maintenance/plan", needs(UserRole.OPERATOR, plans.plan), methods=["POST"]),
        Route("/maintenance/remove", needs(UserRole.OPERATOR, plans.remove), methods=["POST"]),
    ]


def _routes_of_incidents(access: CentralAccess) -> list[Route]:
    incidents, notifications = IncidentPages(access), NotificationPage(access)
    return [
        Route("/incidents", needs(UserRole.VIEWER, incidents.list_incidents)),
        Route("/incidents/decide", needs(UserRole.OPERATOR, incidents.decide_many), methods=["POST"]),
        Route("/incidents/{number:number}", needs(UserRole.VIEWER, incidents.show_incident)),
        Route("/incidents/{number:number}/decide", needs(UserRole.OPERATOR, incidents.decide), methods=["POST"]),
        Route("/notifications", needs(UserRole.VIEWER, notifications.list_channels)),
        Route("/notifications/decide", needs(UserRole.OPERATOR, notifications.decide_parked), methods=["POST"]),
    ]


def _routes_of_answers(access: CentralAccess) -> list[Route]:
    questions, report = QuestionPages(access), FleetReport(access)
    return [
        Route("/report", needs(UserRole.VIEWER, report.page)),
        Route("/report.csv", needs(UserRole.VIEWER, report.page)),
        Route("/ask/{name}.{kind}", needs(UserRole.VIEWER, questions.export)),
        Route("/ask/{name}", needs(UserRole.VIEWER, questions.ask)),
    ]
