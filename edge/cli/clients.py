"""`edge clients`: machines that call the DICOMweb services, and when they last did."""

from __future__ import annotations

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.studies import local_time
from edge.cli.tables import Cell, print_json, print_table, say
from edge.store import web_clients
from edge.store.web_clients import ListedClient


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
    if as_json:
        print_json(found)
        return
    if not session.config.dicomweb.is_on:
        say("The DICOMweb services are not open: there is no [dicomweb] port.", "yellow")
    if found:
        columns = ["client", "services", "signs in with", "last call", "from", "stored"]
        print_table(columns, map(client_row, found))
    else:
        say("No [client] is configured: nobody but people of the console may call.", "yellow")


def client_row(each: ListedClient) -> list[Cell]:
    return [
        each.name,
        ", ".join(each.services) if each.is_configured else "not configured any more",
        each.signs_in_with,
        local_time(each.last_seen_at),
        each.addresses[0] if each.addresses else "",
        each.stored,
    ]
