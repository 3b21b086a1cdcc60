"""`edge schema`: the JSON Schemas of what the gateway tells programs."""

from __future__ import annotations

import click

from edge.cli.session import config_option
from edge.cli.tables import print_json
from edge.monitor import heartbeat


@click.command(short_help="Print a JSON Schema.")
@click.argument("what", type=click.Choice(["heartbeat"]))
@config_option
def schema(what: str) -> None:
    """Print the JSON Schema (2020-12) of what a site sends to the central office.

    It is also the list of all that leaves the site in a heartbeat: no patient is in it.

    \b
    Example:  edge schema heartbeat
    """
    print_json({"heartbeat": heartbeat.schema}[what]())
