"""`edge drill`: when a restore was last tried."""

from __future__ import annotations

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import print_json, say
from edge.store import drills
from edge.text import iso_or_none, local_day


@click.command(short_help="Show or record when a restore was last tried.")
@click.option("--done", metavar="NOTE", help="A restore was tried now; how it went, for the ledger.")
@json_option
@click.pass_obj
def drill(session: CommandSession, done: str | None, as_json: bool) -> None:
    """Show when a restore was last tried, or record that it was. The gateway asks for it once a year.

    Try it on another machine: install Edge with this configuration and an empty data directory, and type
    `edge restore --from NAME`; compare the number of images, and the time that it prints.

    \b
    Example:  edge drill --done "12,400 images in 41 min on the spare machine"
    """
    if done is not None:
        session.change("drill-done", note=done)
    with session.quiet_catalog() as conn:
        last = drills.last_drill(conn)
    if as_json:
        print_json({"last": iso_or_none(last)})
    else:
        say("No restore was ever tried." if last is None else f"A restore was last tried on {local_day(last)}.")
