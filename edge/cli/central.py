"""`edge central ...`: the central office's service, and what it answers on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from edge.central import config as configuration
from edge.central import export, fleet, incidents, ledgers, notifications, reports
from edge.central.accounts import StoredAccounts
from edge.central.config import Config
from edge.central.reports import Column, Question, exact
from edge.central.store import Connection, Row, Store
from edge.cli.session import Session, json_option, login
from edge.cli.tables import Cell, print_table, say
from edge.errors import EdgeError
from edge.text import counted, iso, percent, size, span
from edge.web.accounts import Account, Role, checked_name, end_of_day
from edge.web.passwords import checked_password, hashed


class Office:
    """One run of the command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def config(self) -> Config:
        return configuration.load(self.directory)

    @contextmanager
    def store(self) -> Iterator[Store]:
        store = Store(self.config.database_url())
        try:
            yield store
        finally:
            store.close()

    def read(self, ask: Callable[[Connection, Config, float], Any]) -> Any:
        """What a question answers now."""
        with self.store() as store, store.reading() as conn:
            return ask(conn, self.config, time.time())

    def change(self, work: Callable[[Connection], None]) -> None:
        with self.store() as store, store.writing() as conn:
            work(conn)


csv_option = click.option("as_csv", "--csv", is_flag=True, help="CSV, for spreadsheets.")


def _remember(ctx: click.Context, _parameter: click.Parameter, directory: Path | None) -> None:
    if directory is not None:
        ctx.obj = Office(directory)


class _Group(click.Group):
    """A group each of whose commands takes `--config`, before its name and after it."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.params.append(_config_option(callback=_remember, expose_value=False))
        super().add_command(cmd, name)


def _config_option(**more: Any) -> click.Option:
    return click.Option(
        ["--config"],
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Directory of its configuration (or EDGE_CENTRAL_CONFIG).  [default: /etc/edge-central/conf.d]",
        **more,
    )


@click.group(
    cls=_Group, params=[_config_option(envvar="EDGE_CENTRAL_CONFIG")], short_help="The central office: all sites."
)
@click.pass_context
def central(ctx: click.Context, config: Path | None) -> None:
    """Hear the heartbeats of all sites, and answer questions about them (docs/central.md)."""
    ctx.obj = Office(config or ctx.ensure_object(Session).given or configuration.INSTALLED)


# -- the service -------------------------------------------------------------------------------------------------------


@central.command()
@click.pass_obj
def run(office: Office) -> None:
    """Run the central office in the foreground, until SIGTERM or Ctrl-C.

    \b
    Example:  edge central run --config /etc/edge-central/conf.d
    """
    from edge.central import service  # noqa: PLC0415 - slow to import

    sys.exit(service.run(office.directory))


@central.command()
@click.pass_obj
def check(office: Office) -> None:
    """Check the configuration, keys, certificate and the database. Exit 2 when there is a mistake.

    \b
    Example:  edge central check && sudo systemctl reload edge-central
    """
    keys = office.config.read_keys()
    office.config.check_files()
    with office.store() as store:
        kind = store.url.get_backend_name()
    told = counted(len(keys), "site")
    say(f"The configuration in {office.directory} is good: {told}, and its {kind} database answers.")


@central.command()
@click.argument("name")
@click.option("--role", type=click.Choice([role.name.lower() for role in Role]), help="What the account may do.")
@click.option("--disable/--enable", default=None, help="Let it sign in no more; or again, also where it is locked.")
@click.option("--expires", metavar="DATE", help='The last day on which it works, such as 2026-12-31, or "never".')
@click.option("--password", help="Asked for where the account is new, or nothing else is changed.")
@click.pass_obj
def account(
    office: Office, name: str, role: str | None, disable: bool | None, expires: str | None, password: str | None
) -> None:
    """Add or change an account of the pages. A new one is a viewer, unless `--role` says otherwise.

    \b
    Example:  edge central account ann --role admin
              edge central account ben --disable
    """
    name, now = checked_name(name), time.time()
    with office.store() as store:
        accounts = StoredAccounts(store)
        found = accounts.find(name)
        if password is None and (found is None or (role, disable, expires) == (None, None, None)):
            password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        made = found or Account(name, Role.VIEWER, "", now)
        if password is not None:
            made = replace(made, password=hashed(checked_password(password, name)), changed_at=now)
        if role is not None:
            made = replace(made, role=Role[role.upper()], changed_at=now)
        if disable is not None:
            made = replace(made, disabled=disable, changed_at=now if disable else made.changed_at)
        if expires is not None:
            made = replace(made, expires_at=end_of_day(expires))
        accounts.put(made, login())
    say(f"{name}: {made.described()}.")


# -- sites and incidents -----------------------------------------------------------------------------------------------

_SITES = Question(
    "sites",
    "",
    "",
    "No site is configured.",
    (
        Column("site", "Site"),
        Column("name", "Name"),
        Column("word", "State"),
        Column("reason", "Why"),
        Column("since_at", "Since", "moment"),
        Column("heard_at", "Heard", "moment"),
        Column("used_fraction", "Used", "share"),
        Column("backlog", "Waiting", "count"),
        Column("provider", "Provider"),
        Column("version", "Version"),
    ),
    lambda conn, config, now: [
        {
            "site": each.id,
            "name": each.name,
            "level": each.level,
            "word": each.word,
            "reason": each.reason,
            "since_at": each.since,
            "heard_at": each.heard_at,
            "used_fraction": each.used_fraction,
            "backlog": each.backlog,
            "provider": each.provider,
            "region": each.region,
            "version": each.version,
        }
        for each in fleet.standings(conn, config, now)
    ],
)


@central.command()
@json_option
@csv_option
@click.pass_obj
def sites(office: Office, as_json: bool, as_csv: bool) -> None:
    """List all sites, worst first. Exit 1 when one is in trouble.

    \b
    Example:  edge central sites
    """
    found = office.read(_SITES.ask)
    _show(_SITES, found, as_json, as_csv)
    if any(each["level"] == fleet.BAD for each in found):
        raise SystemExit(1)


_INCIDENTS = (
    Column("id", "No."),
    Column("kind", "Kind"),
    Column("severity", "Severity"),
    Column("site", "Site"),
    Column("sites", "Sites", "count"),
    Column("opened_at", "Since", "moment"),
    Column("closed_at", "Closed", "moment"),
    Column("acknowledged_at", "Acknowledged", "moment"),
    Column("escalated_at", "Escalated", "moment"),
    Column("text", "What"),
)


@central.command("incidents")
@click.option("closed", "--all", is_flag=True, help="The closed ones too.")
@json_option
@csv_option
@click.pass_obj
def list_incidents(office: Office, closed: bool, as_json: bool, as_csv: bool) -> None:
    """List the open incidents, worst first.

    \b
    Example:  edge central incidents --all --csv > incidents.csv
    """
    found = office.read(lambda conn, _config, _now: [dict(each) for each in incidents.listing(conn, closed=closed)])
    _show(Question("incidents", "", "", "No incident.", _INCIDENTS, lambda *_: []), found, as_json, as_csv)


@central.group(cls=_Group)
def incident() -> None:
    """One incident: show it, look after it, write beside it, close it."""


@incident.command("show")
@click.argument("number", type=int)
@json_option
@click.pass_obj
def show_incident(office: Office, number: int, as_json: bool) -> None:
    """Show an incident with its sites and its notes.

    \b
    Example:  edge central incident show 17
    """

    def read(conn: Connection, _config: Config, _now: float) -> dict[str, Any]:
        found = incidents.one(conn, number)
        if found is None:
            raise incidents.NoIncident(f"there is no incident {number}")
        told = {"outages": incidents.members(conn, number), "notes": incidents.notes(conn, number)}
        return {**found, **{key: [_with_moments(each) for each in value] for key, value in told.items()}}

    found = office.read(read)
    if as_json:
        click.echo(export.as_json(found), nl=False)
        return
    print_table((), [[column.label, _cell(column, found)] for column in _INCIDENTS])
    for outage in found["outages"]:
        say(f"  {outage['site']}: silent from {outage['silent_from']} to {outage['returned_at'] or 'now'}")
    for note in found["notes"]:
        say(f"  {note['at']} {note['who']}: {note['text']}")


def _with_moments(row: Row) -> dict[str, Any]:
    """A row whose moments, which are its only fractions, are in ISO 8601."""
    return {key: iso(value) if isinstance(value, float) else value for key, value in row.items()}


@incident.command()
@click.argument("number", type=int)
@click.argument("note", required=False, default="")
@click.pass_obj
def ack(office: Office, number: int, note: str) -> None:
    """Say that you look after it.

    \b
    Example:  edge central incident ack 17 "called the clinic"
    """
    office.change(lambda conn: incidents.acknowledge(conn, number, time.time(), login(), note))


@incident.command()
@click.argument("number", type=int)
@click.argument("text")
@click.pass_obj
def note(office: Office, number: int, text: str) -> None:
    """Write something beside it.

    \b
    Example:  edge central incident note 17 "the provider works on it, ticket 4711"
    """
    office.change(lambda conn: incidents.add_note(conn, number, time.time(), login(), text))


@incident.command()
@click.argument("number", type=int)
@click.argument("text")
@click.pass_obj
def close(office: Office, number: int, text: str) -> None:
    """End it by hand, and say why.

    \b
    Example:  edge central incident close 17 "the clinic has moved"
    """
    office.change(lambda conn: incidents.close_by_hand(conn, number, time.time(), login(), text))


@central.command()
@click.argument("site")
@json_option
@csv_option
@click.pass_obj
def heads(office: Office, site: str, as_json: bool, as_csv: bool) -> None:
    """List the heads of a site's custody ledger that are kept here, the latest first.

    For `edge ledger verify --head SEQ:HASH` at the site; those of the latest era must be in its ledger.

    \b
    Example:  edge central heads 0067
    """
    if site not in office.config.sites:
        raise EdgeError(f'no [site."{site}"] is configured')
    found = office.read(lambda conn, _config, _now: [dict(each) for each in ledgers.heads(conn, site)])
    kept = [{**each, "verify": f"{each['seq']}:{each['head']}"} for each in found]
    _show(
        Question("heads", "", "", "Nothing has been heard of its ledger.", _HEADS, lambda *_: []), kept, as_json, as_csv
    )


_HEADS = (Column("era", "Era"), Column("at", "Acknowledged", "moment"), Column("verify", "SEQ:HASH"))


# -- questions ---------------------------------------------------------------------------------------------------------


def _ask(name: str) -> Callable[..., None]:
    question = reports.QUESTIONS[name]

    @json_option
    @csv_option
    @click.pass_obj
    def command(office: Office, as_json: bool, as_csv: bool) -> None:
        _show(question, office.read(question.ask), as_json, as_csv)

    command.__doc__ = f"{question.title}\n\n{question.means}\n\n\b\nExample:  edge central {name} --csv > {name}.csv"
    return command


for _name in reports.QUESTIONS:
    central.command(_name)(_ask(_name))


def _show(question: Question, found: Iterable[Mapping[str, Any]], as_json: bool, as_csv: bool) -> None:
    rows = list(found)
    if as_json:
        click.echo(export.as_json(rows), nl=False)
    elif as_csv:
        click.echo(export.as_csv(reports.columns(question), rows), nl=False)
    elif rows:
        headings = [column.label for column in question.columns]
        print_table(headings, [[_cell(column, row) for column in question.columns] for row in rows])
    else:
        say(question.none)


def _cell(column: Column, row: Mapping[str, Any]) -> Cell:
    told = row.get(column.key)
    if told is None:
        return None
    return _CELLS[column.kind](told) if column.kind in _CELLS else str(told)


_CELLS: Mapping[str, Callable[[Any], Cell]] = {
    "moment": lambda at: datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M"),
    "seconds": span,
    "share": percent,
    "exact": exact,
    "size": lambda octets: size(octets) if octets >= 0 else f"-{size(-octets)}",
    "count": round,
}


@central.command()
@click.option("--send", is_flag=True, help="Mail it now to every [email.NAME], too.")
@click.pass_obj
def digest(office: Office, send: bool) -> None:
    """Print the daily digest as it is now.

    \b
    Example:  edge central digest
    """
    with office.store() as store, store.writing() as conn:
        click.echo(notifications.text(conn, office.config, time.time()), nl=False)
        if send and not notifications.send_digest(conn, office.config, time.time()):
            raise EdgeError("no [email.NAME] is configured")


# -- how much it takes -------------------------------------------------------------------------------------------------


@central.command()
@click.option("--sites", default=1000, show_default=True, help="How many.")
@click.option("--minutes", default=1.0, show_default=True, help="How long at their own pace, one a minute each.")
@click.option("--months", default=0, show_default=True, help="Of history to fill in first; the questions are timed.")
@click.option("--database", metavar="URL", help="An empty PostgreSQL database for it.  [default: a new SQLite file]")
@json_option
def simulate(sites: int, minutes: float, months: int, database: str | None, as_json: bool) -> None:
    """Measure a central office of its own with the heartbeats of sites that do not exist.

    First at their own pace, then as fast as it takes them. Nothing of a real office is touched.

    \b
    Example:  edge central simulate --sites 1000 --minutes 5
    """
    from edge.central import simulate as simulation  # noqa: PLC0415

    figures = simulation.run(sites, minutes, months, database)
    if as_json:
        click.echo(export.as_json(figures), nl=False)
    else:
        for name, told in figures.items():
            say(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in told.items()))
    if any(told.get("refused") for told in figures.values()):
        raise SystemExit(1)
