"""`edge schema`: the JSON Schemas of the configuration and of the gateway's messages."""

from __future__ import annotations

import click

from edge.cli.tables import print_json
from edge.config.schema import config_schema
from edge.monitor import heartbeat


@click.command(short_help="Print a JSON Schema.")
@click.argument("what", type=click.Choice(["heartbeat", "config"]))
def schema(what: str) -> None:
    """Print the JSON Schema (2020-12) of the configuration, for editors, or of a heartbeat.

    That of a heartbeat is also the complete list of what a heartbeat contains. It has no patient data.

    \b
    Examples:  edge schema config > edge.schema.json
               edge schema heartbeat
    """
    print_json(config_schema() if what == "config" else heartbeat.schema())
