"""`edge statement`: the conformance statements of this gateway."""

from __future__ import annotations

import click

from edge.cli.session import CommandSession
from edge.console.statements import FORMATS, STATEMENTS, make_statement, render_document


@click.command(short_help="Print the DICOM, IHE or HL7 statement.")
@click.argument("kind", type=click.Choice(STATEMENTS))
@click.option("--format", "form", type=click.Choice(FORMATS), default="md", show_default=True, help="Its form.")
@click.pass_obj
def statement(session: CommandSession, kind: str, form: str) -> None:
    """Print the DICOM conformance statement (by the template of PS3.2), the IHE integration statement, or HL7's.

    Each is made from the configuration and from the tables by which associations are negotiated, requests answered
    and messages read.

    \b
    Examples:  edge statement dicom --format html > conformance.html
               edge statement ihe
    """
    click.echo(render_document(make_statement(kind, session.config), form), nl=False)
