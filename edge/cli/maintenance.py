"""`edge maintenance`: planned work, during which nobody is notified of what it explains."""

from __future__ import annotations

import time

import click

from edge.cli.configuration import change_reason_option, print_change
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, print_list
from edge.config.maintenance import PlannedWork, windows_of
from edge.errors import EdgeError
from edge.text import iso, moment_text


def _state(each: PlannedWork) -> str:
    now = time.time()
    return "over" if each.end <= now else "now" if each.holds(now) else "planned"


_COLUMNS: Columns[PlannedWork] = {
    "name": lambda each: each.name,
    "from": lambda each: moment_text(each.begin),
    "to": lambda each: moment_text(each.end),
    "state": _state,
    "reason": lambda each: each.reason,
}


@click.group(short_help="Plan maintenance.")
def maintenance() -> None:
    """Plan work on the gateway or around it: what fails meanwhile is planned downtime, and nobody is notified.

    \b
    Examples:  edge maintenance list
               edge maintenance add "2026-12-05 22:00" "2026-12-06 02:00" \\
                 --reason "new core switch"
    """


@maintenance.command("list", short_help="List planned work.")
@json_option
@click.pass_obj
def list_windows(session: CommandSession, as_json: bool) -> None:
    """List planned work, the earliest first.

    \b
    Example:  edge maintenance list
    """
    config = session.config
    found = windows_of(config.maintenances.values(), config.calendar.time_zone)
    print_list(found, _COLUMNS, "No work is planned.", as_json=as_json, json_of=_json)


def _json(each: PlannedWork) -> dict[str, str]:
    times = {"from": iso(each.begin), "to": iso(each.end)}
    return {"name": each.name, **times, "reason": each.reason, "state": _state(each)}


@maintenance.command(short_help="Plan work.")
@click.argument("from_", metavar="FROM")
@click.argument("to", metavar="TO")
@click.option("--name", metavar="NAME", help="Its name in the configuration; omitted: from the day.")
@change_reason_option
@click.pass_obj
def add(session: CommandSession, from_: str, to: str, name: str | None, reason: str) -> None:
    """Plan work between two times of the site, such as "2026-12-05 22:00".

    \b
    Example:  edge maintenance add "2026-12-05 22:00" "2026-12-06 02:00" \\
                --reason "new core switch"
    """
    fields = {"from": from_, "to": to, "name": name or "", "reason": reason}
    print_change(session.change_configuration("maintenance-add", **fields))


@maintenance.command(short_help="Cancel planned work, or end it early.")
@click.argument("planned", metavar="NAME")
@change_reason_option
@click.pass_obj
def remove(session: CommandSession, planned: str, reason: str) -> None:
    """Remove planned work; what it explained is notified again.

    \b
    Example:  edge maintenance remove switch --reason "done early"
    """
    if planned not in session.config.maintenances:
        raise EdgeError(f"there is no [maintenance.{planned}]; see `edge maintenance list`")
    print_change(session.change_configuration("maintenance-remove", name=planned, reason=reason))
