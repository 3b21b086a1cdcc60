"""`edge central incidents`, `edge central incident ...`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from edge.central import export
from edge.central.columns import Column
from edge.central.config import CentralConfig
from edge.cli.central_session import CentralGroup, CentralSession, cell, csv_option, show_answer
from edge.cli.session import json_option, login
from edge.cli.tables import print_table, say, with_old_keys
from edge.store.central import incidents, outages
from edge.store.engine import EngineTransaction, Row
from edge.text import iso

_INCIDENTS = (
    Column("id", "ID"),
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


@click.command("incidents")
@click.option("closed", "--all", is_flag=True, help="Include closed incidents.")
@json_option
@csv_option
@click.pass_obj
def list_incidents(session: CentralSession, closed: bool, as_json: bool, as_csv: bool) -> None:
    """List the open incidents, worst first.

    \b
    Example:  edge central incidents --all --csv > incidents.csv
    """
    found = session.read(
        lambda conn, _config, _now: [with_old_keys(each) for each in incidents.listing(conn, closed=closed)]
    )
    show_answer(found, _INCIDENTS, "No incident.", as_json, as_csv)


@click.group(cls=CentralGroup)
def incident() -> None:
    """Show, acknowledge, comment on or close an incident."""


@incident.command("show")
@click.argument("number", type=int)
@json_option
@click.pass_obj
def show_incident(session: CentralSession, number: int, as_json: bool) -> None:
    """Show an incident with its sites and its notes.

    \b
    Example:  edge central incident show 17
    """

    def read(conn: EngineTransaction, _config: CentralConfig, _now: float) -> dict[str, Any]:
        found = incidents.find_one(conn, number)
        parts = {"outages": outages.list_of_incident(conn, number), "notes": incidents.notes(conn, number)}
        return {
            **with_old_keys(found),
            **{key: [_with_moments(each) for each in value] for key, value in parts.items()},
        }

    found = session.read(read)
    if as_json:
        click.echo(export.as_json(found), nl=False)
        return
    print_table((), [[column.label, cell(column, found)] for column in _INCIDENTS])
    for outage in found["outages"]:
        say(f"  {outage['site']}: silent from {outage['silent_from']} to {outage['returned_at'] or 'now'}")
    for note in found["notes"]:
        say(f"  {note['at']} {note['who']}: {note['text']}")


def _with_moments(row: Row) -> dict[str, Any]:
    """A row whose moments, which are its only fractions, are in ISO 8601."""
    return {key: iso(value) if isinstance(value, float) else value for key, value in with_old_keys(row).items()}


def _add_decision(
    name: str, change: Callable[[EngineTransaction, int, float, str, str], None], text: str, about: str, example: str
) -> None:
    """Add a command that changes an incident, with a text of the person's."""

    @incident.command(name, help=f'{about}\n\n\b\nExample:  edge central incident {name} 17 "{example}"')
    @click.argument("number", type=int)
    @click.argument(text, required=text == "text", default="" if text == "note" else None)
    @click.pass_obj
    def command(session: CentralSession, /, number: int, **given: str) -> None:
        session.change(lambda conn: change(conn, number, time.time(), login(), given[text]))


_add_decision("ack", incidents.acknowledge, "note", "Acknowledge an incident.", "called the clinic")
_add_decision("note", incidents.add_note, "text", "Comment on an incident.", "provider called, ticket 4711")
_add_decision(
    "close", incidents.close_by_hand, "text", "Close an incident by hand, with a reason.", "the clinic has moved"
)
