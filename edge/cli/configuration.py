"""`edge config`: the history of the configuration, what differs, and back to an earlier state."""

from __future__ import annotations

from typing import Any

import click

from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, say
from edge.config.edit import differences
from edge.errors import EdgeError
from edge.store import configuration_versions
from edge.store.configuration_versions import ConfigurationVersion
from edge.store.listing import ListPart
from edge.text import moment_text

_COLUMNS: Columns[ConfigurationVersion] = {
    "state": lambda each: each.id,
    "at": lambda each: moment_text(each.at),
    "by": lambda each: each.who,
    "reason": lambda each: each.reason,
    "files": lambda each: len(each.files),
}
change_reason_option = click.option("--reason", required=True, metavar="TEXT", help="Why; it is kept with the change.")


@click.group(short_help="Show the history of the configuration; go back.")
def config() -> None:
    """Show each state of the configuration that the gateway has used, what differs, and go back to one.

    The files are the source of truth: a state that somebody wrote with an editor is in the history as well.

    \b
    Examples:  edge config history
               edge config diff 12
               edge config rollback 11 --reason "the new route was too wide"
    """


@config.command(short_help="List the states of the configuration.")
@part_options()
@json_option
@click.pass_obj
def history(session: CommandSession, part: ListPart, as_json: bool) -> None:
    """List the states that the gateway has used, the latest first, with who changed the files and why.

    \b
    Example:  edge config history
    """
    with session.quiet_catalog() as conn:
        found = read_part(configuration_versions.list_versions(conn), part)
    print_part(found, _COLUMNS, "No state is kept yet.", as_json=as_json, json_of=_json)


def _json(each: ConfigurationVersion) -> dict[str, Any]:
    return {"state": each.id, "at": each.at, "who": each.who, "reason": each.reason, "files": sorted(each.files)}


@config.command(short_help="Show what a state changed.")
@click.argument("state", type=int)
@click.pass_obj
def diff(session: CommandSession, state: int) -> None:
    """Show the lines that a state changed in the one before it.

    \b
    Example:  edge config diff 12
    """
    with session.quiet_catalog() as conn:
        found, before = (
            configuration_versions.find_version(conn, state),
            configuration_versions.version_before(conn, state),
        )
    if found is None:
        raise EdgeError(f"there is no state {state}; see `edge config history`")
    print_difference(differences(before.files if before else {}, found.files))


@config.command(short_help="Go back to an earlier state.")
@click.argument("state", type=int)
@change_reason_option
@click.pass_obj
def rollback(session: CommandSession, state: int, reason: str) -> None:
    """Write the files of an earlier state again, and have the gateway read them. That is a new state.

    \b
    Example:  edge config rollback 11 --reason "the new route was too wide"
    """
    if not session.daemon_runs:
        raise EdgeError("the gateway is down: start it first, or edit the files")
    print_change(session.change_configuration("rollback", version=state, reason=reason))


def print_change(done: dict[str, Any]) -> None:
    """Print what a change of the configuration has changed."""
    print_difference(done["difference"])
    if done["read"]:
        say("The gateway uses it from now on.", "green")
    else:
        say("The files are written; the gateway reads them at its next start or reload.", "yellow")


def print_difference(lines: list[str]) -> None:
    for line in lines:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        say(line, style)
