"""All pages for people, as one ASGI application behind the guard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from edge.config import secret
from edge.console.access import Access
from edge.console.accounts import record_in_ledger
from edge.console.asked import AskedPage
from edge.console.charts import Charts
from edge.console.clients import ClientsPage
from edge.console.commitments import CommitmentPage
from edge.console.configuration_history import ConfigurationHistory, MaintenancePage
from edge.console.dry_run import DryRun
from edge.console.equipment import EquipmentPage
from edge.console.exception_list import ExceptionList
from edge.console.figures import FiguresPage
from edge.console.hl7 import Hl7Page
from edge.console.import_page import ImportPage
from edge.console.instance_exceptions import InstanceExceptions
from edge.console.link_page import LinkPage
from edge.console.look import Looker, LookPages, warms
from edge.console.orders import OrdersPage
from edge.console.outdated import OutdatedPage
from edge.console.overview import Overview
from edge.console.queue import QueuePage
from edge.console.settings import Settings
from edge.console.staged_look import StagedLookPages
from edge.console.statement_page import StatementPage
from edge.console.steps import StepPage
from edge.console.studies import Studies
from edge.console.upload import UploadPages
from edge.console.worklist import WorklistPage
from edge.network.shares import ProvenCallers
from edge.web.accounts import Accounts, UserRole
from edge.web.endpoints import needs, open_to_all
from edge.web.guard import Guard, Rules
from edge.web.guide import Help
from edge.web.login import Login
from edge.web.navigation import NavigationEntry, NavigationGroup
from edge.web.pages import Pages
from edge.web.sessions import Sessions
from edge.web.setup import Setup

VIEWER, OPERATOR, ADMIN = UserRole.VIEWER, UserRole.OPERATOR, UserRole.ADMIN
POST = ("POST",)
NAVIGATION = (
    NavigationGroup(
        "Now",
        (
            NavigationEntry("/", "Overview"),
            NavigationEntry("/queue", "Queue"),
            NavigationEntry("/exceptions", "Exceptions"),
        ),
    ),
    NavigationGroup(
        "Studies",
        (
            NavigationEntry("/studies", "Studies", also=("/instances",)),
            NavigationEntry("/import", "Import", OPERATOR),
            NavigationEntry("/outdated", "Outdated copies"),
        ),
    ),
    NavigationGroup(
        "Orders",
        (
            NavigationEntry("/orders", "Orders"),
            NavigationEntry("/worklist", "Worklist"),
            NavigationEntry("/steps", "Performed steps"),
            NavigationEntry("/hl7", "HL7"),
        ),
    ),
    NavigationGroup(
        "Equipment",
        (
            NavigationEntry("/equipment", "Equipment"),
            NavigationEntry("/clients", "Clients"),
            NavigationEntry("/asked", "Queries"),
            NavigationEntry("/commitments", "Commitments"),
            NavigationEntry("/links", "Link test", OPERATOR),
        ),
    ),
    NavigationGroup(
        "History",
        (
            NavigationEntry("/charts", "Charts"),
            NavigationEntry("/report", "Month"),
            NavigationEntry("/figures", "Figures"),
        ),
    ),
    NavigationGroup(
        "Settings",
        (
            NavigationEntry("/configuration", "Configuration"),
            NavigationEntry("/configuration/history", "Changes", ADMIN),
            NavigationEntry("/dry-run", "Dry run", OPERATOR),
            NavigationEntry("/maintenance", "Maintenance"),
            NavigationEntry("/accounts", "Accounts", ADMIN),
        ),
    ),
)


def build_console(access: Access, setup: Setup, known: ProvenCallers | None = None) -> Guard:
    """Build the application. `setup` creates the first account; `known` remembers the callers that signed in."""
    pages = Pages(
        Path(__file__).parent / "templates", NAVIGATION, product="Edge", site=lambda: access.config().site.name
    )
    rules = _rules(access)
    accounts, sessions = Accounts(access.db, record_in_ledger), Sessions(access.config().console.sessions)
    login = Login(accounts, sessions, pages, setup, rules=rules)
    looker = Looker(access)
    routes = [
        *login.routes(),
        *_routes_of_now(access, pages, looker),
        *_routes_of_studies(access, pages, looker),
        *_routes_of_import(access, pages, looker),
        *_routes_of_orders(access, pages),
        *_routes_of_equipment(access, pages),
        *_routes_of_history(access, pages),
        *_routes_of_settings(access, pages),
        *_routes_of_help(pages),
        *(Route(old, open_to_all(_redirect_old_page)) for old in OLD_PAGES),
        Route("/{rest:path}", open_to_all(pages.render_missing)),
    ]
    return Guard(Starlette(routes=routes), accounts, sessions, rules, known)


def _routes_of_now(access: Access, pages: Pages, looker: Looker) -> list[Route]:
    overview, queue = Overview(access, pages), QueuePage(access, pages)
    exceptions, listed = InstanceExceptions(access, pages), ExceptionList(access, pages)
    return [
        Route("/", needs(VIEWER, overview.page)),
        Route("/alerts/acknowledge", needs(OPERATOR, overview.acknowledge), methods=POST),
        Route("/alerts/act", needs(OPERATOR, overview.act), methods=POST),
        Route("/queue", needs(VIEWER, warms(looker, queue.index))),
        Route("/queue/decide", needs(OPERATOR, queue.decide), methods=POST),
        Route("/exceptions", needs(VIEWER, warms(looker, listed.index))),
        Route("/exceptions/decide", needs(OPERATOR, listed.decide), methods=POST),
        Route("/exceptions/{number:number}", needs(VIEWER, exceptions.compare)),
        Route("/exceptions/{number:number}/decide", needs(OPERATOR, exceptions.decide), methods=POST),
    ]


def _routes_of_studies(access: Access, pages: Pages, looker: Looker) -> list[Route]:
    studies, look = Studies(access, pages), LookPages(access, pages, looker)
    return [
        Route("/studies", needs(VIEWER, warms(looker, studies.index))),
        Route("/studies/search", needs(VIEWER, studies.search), methods=POST),
        Route("/studies/{number:number}", needs(VIEWER, warms(looker, studies.show))),
        Route("/studies/{number:number}/hold", needs(OPERATOR, studies.decide_hold), methods=POST),
        Route("/studies/{number:number}/send", needs(OPERATOR, studies.send), methods=POST),
        Route("/studies/{number:number}/export", needs(OPERATOR, studies.export), methods=POST),
        Route("/instances/{number:number}", needs(OPERATOR, look.show)),
        Route("/instances/{number:number}/frame.png", needs(OPERATOR, look.picture)),
        Route("/instances/{number:number}/document", needs(OPERATOR, look.document)),
        Route("/outdated", needs(VIEWER, OutdatedPage(access, pages).index)),
    ]


def _routes_of_import(access: Access, pages: Pages, looker: Looker) -> list[Route]:
    importing, upload = ImportPage(access, pages), UploadPages(access, pages)
    look, image = StagedLookPages(access, pages, looker), "/import/{number:number}/images/{image:number}"
    return [
        Route("/import", needs(OPERATOR, warms(looker, importing.index))),
        Route("/import/{number:number}", needs(OPERATOR, importing.show)),
        Route("/import/{number:number}/find", needs(OPERATOR, importing.find), methods=POST),
        Route("/import/{number:number}/decide", needs(OPERATOR, importing.decide), methods=POST),
        Route(image, needs(OPERATOR, look.show)),
        Route(f"{image}/frame.png", needs(OPERATOR, look.picture)),
        Route("/import/upload", needs(OPERATOR, upload.begin), methods=POST),
        Route("/import/upload/{name}/part", needs(OPERATOR, upload.have), methods=["GET"]),
        Route("/import/upload/{name}/part", needs(OPERATOR, upload.part), methods=POST),
        Route("/import/upload/{name}/finish", needs(OPERATOR, upload.finish), methods=POST),
    ]


def _routes_of_orders(access: Access, pages: Pages) -> list[Route]:
    orders, hl7, steps = OrdersPage(access, pages), Hl7Page(access, pages), StepPage(access, pages)
    return [
        Route("/orders", needs(VIEWER, orders.index)),
        Route("/orders/decide", needs(OPERATOR, orders.decide), methods=POST),
        Route("/worklist", needs(VIEWER, WorklistPage(access, pages).index)),
        Route("/steps", needs(VIEWER, steps.index)),
        Route("/steps/decide", needs(OPERATOR, steps.decide), methods=POST),
        Route("/hl7", needs(VIEWER, hl7.index)),
        Route("/hl7/decide", needs(OPERATOR, hl7.decide), methods=POST),
    ]


def _routes_of_equipment(access: Access, pages: Pages) -> list[Route]:
    equipment = EquipmentPage(access, pages)
    return [
        Route("/equipment", needs(VIEWER, equipment.index)),
        Route("/equipment/add", needs(ADMIN, equipment.add), methods=POST),
        Route("/equipment/announce", needs(OPERATOR, equipment.announce), methods=POST),
        Route("/clients", needs(VIEWER, ClientsPage(access, pages).index)),
        Route("/asked", needs(VIEWER, AskedPage(access, pages).index)),
        Route("/commitments", needs(VIEWER, CommitmentPage(access, pages).index)),
        Route("/links", needs(OPERATOR, LinkPage(access, pages).page), methods=["GET", "POST"]),
    ]


def _routes_of_history(access: Access, pages: Pages) -> list[Route]:
    charts = Charts(access, pages)
    return [
        Route("/charts", needs(VIEWER, charts.page)),
        Route("/report", needs(VIEWER, charts.report)),
        Route("/report.csv", needs(VIEWER, charts.report)),
        Route("/figures", needs(VIEWER, FiguresPage(access, pages).index)),
        Route("/statement/{kind}.{form}", needs(VIEWER, StatementPage(access, pages).file)),
    ]


def _routes_of_settings(access: Access, pages: Pages) -> list[Route]:
    history, maintenance = ConfigurationHistory(access, pages), MaintenancePage(access, pages)
    dry_run = DryRun(access, pages)
    return [
        Route("/configuration", needs(VIEWER, Settings(access, pages).show)),
        Route("/configuration/history", needs(ADMIN, history.index)),
        Route("/configuration/rollback", needs(ADMIN, history.roll_back), methods=POST),
        Route("/dry-run", needs(OPERATOR, dry_run.page), methods=["GET", "POST"]),
        Route("/dry-run/apply", needs(ADMIN, dry_run.apply), methods=POST),
        Route("/maintenance", needs(VIEWER, maintenance.index)),
        Route("/maintenance/plan", needs(OPERATOR, maintenance.plan), methods=POST),
        Route("/maintenance/remove", needs(OPERATOR, maintenance.plan), methods=POST),
    ]


def _routes_of_help(pages: Pages) -> list[Route]:
    guide = Help(pages)
    paths = ("/help", "/help/{section}", "/help/{section}/{name}")
    return [Route(each, open_to_all(guide.show)) for each in paths]


#: Addresses of version 0.1, which redirect for one release.
OLD_PAGES = ("/troubles", "/troubles/{number:number}", "/rehearsal")  # language: addresses of version 0.1


def _redirect_old_page(request: Request) -> Response:
    path = request.url.path.replace("/troubles", "/exceptions")  # language: an address of version 0.1
    return RedirectResponse(path.replace("/rehearsal", "/dry-run"), 308)  # language: an address of version 0.1


def _rules(access: Access) -> Rules:
    config = access.config()
    console = config.console
    cookie = "edge-" + "".join(char for char in config.site.id if char.isascii() and char.isalnum())
    authorities = secret.path_of(console.client_ca, access.directory) if console.client_ca else None
    return replace(
        Rules.from_section(console, cookie, authorities),
        user_header=console.user_header,
        proxies=console.proxies,
        default_role=None if console.user_role == "none" else UserRole[console.user_role.upper()],
    )
