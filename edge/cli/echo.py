"""`edge echo`: test whether a destination is reachable, and what it accepts."""

from __future__ import annotations

from dataclasses import asdict

import click

from edge.cli.deciding import require_destination
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Cell, fail_unless, print_json, print_table, say
from edge.model import ContextKey
from edge.outbound.echo import Echo, ask, has_images, proposals_to
from edge.store import catalog
from edge.text import amount


@click.command(short_help="Test a destination, and show what it accepts.")
@click.argument("destination")
@json_option
@click.pass_obj
def echo(session: CommandSession, destination: str, as_json: bool) -> None:
    """Test whether a destination is reachable, what it accepts, and how it gives studies back.

    Opens an association as the gateway does, sends C-ECHO, and proposes every SOP class that this site has received (or
    common ones), C-GET and C-MOVE, and what the configuration asks of it besides: the worklist, performed procedure
    steps, availability notifications. No image is sent. Exit 1 when the destination is not reachable, or refuses.

    \b
    Example:  edge echo archive
    """
    require_destination(session, destination)
    proposals = proposals_to(session.config, destination, received_kinds(session))
    found = ask(session.config, session.config.destinations[destination], proposals)
    if as_json:
        print_json(asdict(found))
    else:
        _print(found, has_images(session.config, destination))
    fail_unless(found.reachable)


def received_kinds(session: CommandSession) -> list[ContextKey]:
    """List the SOP classes and transfer syntaxes that this site has received."""
    if not session.has_catalog:
        return []
    with session.quiet_catalog() as conn:
        return catalog.kinds(conn)


def _print(found: Echo, gives_back: bool) -> None:
    """`gives_back`: it has images, and may be asked for them."""
    if not found.reachable:
        say(f"{found.address} {found.outage}: {found.error}.", "bold red")
        return
    _print_answer(found)
    print_proof(found)
    for line in describe_retrieval(found) if gives_back else ():
        say(*line)
    if found.url:
        return
    rows: list[list[Cell]] = [
        [each.sop_class, each.transfer_syntax, "yes" if each.accepted else "no", each.reason] for each in found.contexts
    ]
    print_table(["SOP class", "transfer syntax", "accepted", "reason"], rows)
    classes = {each.sop_class_uid for each in found.contexts}
    refused = classes - {each.sop_class_uid for each in found.contexts if each.accepted}
    if refused:
        say(f"{amount(len(refused), 'SOP class')} not accepted in any transfer syntax.", "yellow")


def _print_answer(found: Echo) -> None:
    what, question = ("connection", "QIDO-RS") if found.url else ("association", "C-ECHO")
    trip = f"it does not accept {question}" if found.echo_seconds is None else f"{question} {_ms(found.echo_seconds)}"
    say(f"{found.address} answers: {what} {_ms(found.associate_seconds or 0)}, {trip}.", "bold green")


def print_proof(found: Echo) -> None:
    """Whether it answers for the proof that it is to give."""
    if found.confirm == "status":
        return
    proof = "storage commitment" if found.confirm == "commitment" else "QIDO-RS" if found.url else "C-FIND"
    if found.proof_error is None:
        say(f"It answers to {proof}, by which arrival is proved.", "green")
    else:
        say(f"It does not prove arrival by {proof} yet: {found.proof_error}.", "yellow")


def describe_retrieval(found: Echo) -> list[tuple[str, str]]:
    """How it gives studies back: lines with their style."""
    if not found.retrieval:
        return [("It gives no studies back.", "")]
    ways = " and ".join(each.name for each in found.retrieval)
    obstacles = [each.obstacle for each in found.retrieval if each.obstacle]
    return [(f"It offers {ways} to give studies back.", ""), *((f"{each}.", "yellow") for each in obstacles)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
