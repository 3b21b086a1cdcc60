"""`edge central ...`: the centre's service, and its answers on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from edge.central import config as configuration
from edge.central import export, fleet, notifications, reports
from edge.central.accounts import record_in_journal
from edge.central.columns import Column
from edge.cli.central_incidents import incident, list_incidents
from edge.cli.central_notify import notify
from edge.cli.central_session import CentralGroup, CentralSession, central_config_option, csv_option, show_answer
from edge.cli.central_sites import maintenance, site
from edge.cli.session import CommandSession, json_option, login
from edge.cli.tables import fail_unless, say
from edge.errors import EdgeError
from edge.store.central.ledgers import list_heads
from edge.text import amount
from edge.web import accounts
from edge.web.accounts import Account, UserRole, end_of_day, parse_name
from edge.web.passwords import hash_password, require_strong


@click.group(
    cls=CentralGroup,
    params=[central_config_option(envvar="EDGE_CENTRAL_CONFIG")],
    short_help="Monitor all sites at the central office.",
)
@click.pass_context
def central(ctx: click.Context, config: Path | None) -> None:
    """Receive the heartbeats of all sites, and report on the sites (docs/central.md)."""
    ctx.obj = CentralSession(config or ctx.ensure_object(CommandSession).given or configuration.INSTALLED)


for _part in (list_incidents, incident, notify, site, maintenance):
    central.add_command(_part)


# -- the service -------------------------------------------------------------------------------------------------------


@central.command(short_help="Run the central office in the foreground.")
@click.pass_obj
def run(session: CentralSession) -> None:
    """Run the central office in the foreground, until SIGTERM or Ctrl-C.

    \b
    Example:  edge central run --config /etc/edge-central/conf.d
    """
    from edge.central import service  # noqa: PLC0415 - slow to import

    sys.exit(service.run_centre(session.directory))


@central.command()
@click.pass_obj
def check(session: CentralSession) -> None:
    """Check the configuration, keys, certificate and the database. Exit 2 when there is a mistake.

    \b
    Example:  edge central check && sudo systemctl reload edge-central
    """
    keys = session.config.read_keys()
    session.config.check_files()
    session.read(lambda *_: None)
    count, kind = amount(len(keys), "site"), session.config.database_url().partition(":")[0]
    say(f"The configuration in {session.directory} is good: {count}, and its {kind} database answers.")


@central.command()
@click.argument("name")
@click.option("--role", type=click.Choice([role.name.lower() for role in UserRole]), help="What the account may do.")
@click.option("--disable/--enable", default=None, help="Whether it may sign in; --enable also unlocks it.")
@click.option("--expires", metavar="DATE", help='The last day on which it works, such as 2026-12-31, or "never".')
@click.option("--certificate", is_flag=True, help="A client certificate authenticates the user; no password.")
@click.option("--password", help="The password.  [default: asked for a new account, or without other options]")
@click.pass_obj
def account(
    session: CentralSession,
    name: str,
    role: str | None,
    disable: bool | None,
    expires: str | None,
    certificate: bool,
    password: str | None,
) -> None:
    """Add or change an account of the pages. A new one is a viewer, unless `--role` says otherwise.

    \b
    Examples:  edge central account ann --role admin
               edge central account ben --disable
    """
    name, now = parse_name(name), time.time()
    found = session.read(lambda conn, _config, _now: accounts.find(conn, name))
    if certificate:
        password = None
    elif password is None and (found is None or (role, disable, expires) == (None, None, None)):
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    made = found or Account(name, UserRole.VIEWER, "", now)
    if password is not None:
        made = replace(made, password=hash_password(require_strong(password, name)), changed_at=now)
    if role is not None:
        made = replace(made, role=UserRole[role.upper()], changed_at=now)
    if disable is not None:
        made = replace(made, disabled=disable, changed_at=now if disable else made.changed_at)
    if expires is not None:
        made = replace(made, expires_at=end_of_day(expires))
    session.change(lambda conn: accounts.put(conn, record_in_journal, made, login(), now))
    say(f"{name}: {made.summary()}.")


# -- sites and incidents -----------------------------------------------------------------------------------------------

_SITES = (
    Column("site", "Site"),
    Column("name", "Name"),
    Column("word", "State"),
    Column("reason", "Why"),
    Column("since_at", "Since", "moment"),
    Column("heard_at", "Last heartbeat", "moment"),
    Column("used_fraction", "Used", "share"),
    Column("backlog", "Waiting", "count"),
    Column("provider", "Provider"),
    Column("version", "Version"),
)
_KEYS = ("name", "level", "word", "reason", "heard_at", "used_fraction", "backlog", "provider", "region", "version")


@central.command()
@json_option
@csv_option
@click.pass_obj
def sites(session: CentralSession, as_json: bool, as_csv: bool) -> None:
    """List all sites, worst first. Exit 1 when a site is silent or down, refuses images, or has a major or critical
    alert.

    \b
    Example:  edge central sites
    """
    found = [
        {"site": each.id, "since_at": each.since, **{key: getattr(each, key) for key in _KEYS}}
        for each in session.read(fleet.standings)
    ]
    show_answer(found, _SITES, "No site is configured.", as_json, as_csv)
    fail_unless(not any(each["level"] == fleet.BAD for each in found))


@central.command(short_help="List the ledger heads of a site.")
@click.argument("site")
@json_option
@csv_option
@click.pass_obj
def heads(session: CentralSession, site: str, as_json: bool, as_csv: bool) -> None:
    """List the heads of a site's custody ledger that the centre keeps, the latest first.

    Check them at the site with `edge ledger verify --head SEQ:HASH`: its ledger
    must have those of the latest era.

    \b
    Example:  edge central heads 0067
    """
    if site not in session.config.sites:
        raise EdgeError(f'no [site."{site}"] is configured')
    found = session.read(lambda conn, _config, _now: [dict(each) for each in list_heads(conn, site)])
    kept = [{**each, "verify": f"{each['seq']}:{each['head']}"} for each in found]
    show_answer(kept, _HEADS, "The site has not reported a head of its ledger.", as_json, as_csv)


_HEADS = (Column("era", "Era"), Column("at", "Acknowledged", "moment"), Column("verify", "SEQ:HASH"))


# -- questions ---------------------------------------------------------------------------------------------------------


def _ask(name: str) -> Callable[..., None]:
    question = reports.QUESTIONS[name]

    @json_option
    @csv_option
    @click.pass_obj
    def command(session: CentralSession, as_json: bool, as_csv: bool) -> None:
        show_answer(session.read(question.ask), question.columns, question.none, as_json, as_csv)

    command.__doc__ = f"{question.title}\n\n{question.means}\n\n\b\nExample:  edge central {name} --csv > {name}.csv"
    return command


for _name in reports.QUESTIONS:
    central.command(_name)(_ask(_name))


@central.command()
@click.option("--send", is_flag=True, help="Also mail it now to every [email.NAME].")
@click.pass_obj
def digest(session: CentralSession, send: bool) -> None:
    """Print the daily digest as it is now.

    \b
    Example:  edge central digest
    """
    click.echo(session.read(notifications.digest_text), nl=False)
    if send and not session.change(lambda conn: notifications.send_digest(conn, session.config, time.time())):
        raise EdgeError("no [email.NAME] is configured")


# -- how much it takes -------------------------------------------------------------------------------------------------


@central.command(short_help="Measure a test centre with simulated sites.")
@click.option("--sites", default=1000, show_default=True, help="Number of simulated sites.")
@click.option("--minutes", default=1.0, show_default=True, help="Minutes at one heartbeat a minute for each site.")
@click.option("--months", default=0, show_default=True, help="Months of history to write first; reports are timed.")
@click.option("--database", metavar="URL", help="An empty PostgreSQL database.  [default: a new SQLite file]")
@json_option
def simulate(sites: int, minutes: float, months: int, database: str | None, as_json: bool) -> None:
    """Measure a separate test centre with the heartbeats of simulated sites.

    First at one heartbeat a minute, then as fast as the test centre takes them.
    A real centre is not affected.

    \b
    Example:  edge central simulate --sites 1000 --minutes 5
    """
    from edge.central import simulate as simulation  # noqa: PLC0415

    figures = simulation.run_simulation(sites, minutes, months, database)
    if as_json:
        click.echo(export.as_json(figures), nl=False)
    else:
        for name, values in figures.items():
            say(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items()))
    fail_unless(not any(values.get("refused") for values in figures.values()))
