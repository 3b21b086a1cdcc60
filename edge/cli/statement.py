"""`edge statement`: the conformance statements of this gateway."""

from __future__ import annotations

import click

from edge.cli.session import CommandSession
from edge.console.statements import FORMATS, STATEMENTS, make_statement, render_document


@click.command(short_help="Print the DICOM or IHE statement of this gateway.")
@click.argument("kind", type=click.Choice(STATEMENTS))
@click.option("--format", "form", type=click.Choice(FORMATS), default="md", show_default=True, help="Its form.")
@click.pass_obj
def statement(session: CommandSession, kind: str, form: str) -> None:
    """Print the DICOM conformance statement (in the order of PS3.2), or the IHE integration statement.

    It is made from the configuration and from the tables by which associations are negotiated.

    \b
    Examples:  edge statement dicom --format html > conformance.html
               edge statement ihe
    """
    click.echo(render_document(make_statement(kind, session.config), form), nl=False)
