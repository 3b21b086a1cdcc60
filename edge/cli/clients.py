"""`edge clients`: machines that call the DICOMweb services, and when they last did."""

from __future__ import annotations

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, local_time, print_list, say
from edge.store import web_clients
from edge.store.web_clients import ListedClient

_COLUMNS: Columns[ListedClient] = {
    "client": lambda each: each.name,
    "services": lambda each: ", ".join(each.services) if each.is_configured else "not configured any more",
    "signs in with": lambda each: each.signs_in_with,
    "last call": lambda each: local_time(each.last_seen_at),
    "from": lambda each: each.addresses[0] if each.addresses else "",
    "stored": lambda each: each.stored,
}


@click.group(short_help="List machines that call the DICOMweb services.")
def clients() -> None:
    """Show the machines that may call the DICOMweb services (`[client.NAME]`, `[dicomweb]`).

    What each was shown, and when, is in `edge audit`.
    """


@clients.command("list", short_help="List the clients with their last calls.")
@json_option
@click.pass_obj
def list_calls(session: CommandSession, as_json: bool) -> None:
    """List the configured clients, with their last calls; then those that are not configured any more.

    \b
    Examples:  edge clients list
               edge clients list --json | jq '.[] | .last_seen_at'
    """
    with session.catalog() as conn:
        found = web_clients.list_clients(conn, session.config.clients.values())
    if not (session.config.dicomweb.is_on or as_json):
        say("The DICOMweb services are not open: there is no [dicomweb] port.", "yellow")
    none = "No [client] is configured: nobody but people of the console may call."
    print_list(found, _COLUMNS, none, as_json=as_json)
