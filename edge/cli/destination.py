"""`edge destination`: where images go, and what becomes of what is left for a destination that has gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from edge.cli.session import Session, config_option, json_option, login
from edge.cli.tables import Cell, print_json, print_table, say
from edge.errors import EdgeError
from edge.model import DeliveryState
from edge.store import destinations
from edge.store.database import Connection
from edge.store.destinations import Known, Progress
from edge.text import counted


@click.group(short_help="List destinations; end or rename one that has gone.")
@config_option
def destination() -> None:
    """List destinations, and decide about what is left for one that is no longer configured.

    \b
    Examples:  edge destination list
               edge destination rename oldpacs archive
               edge destination retire oldpacs --reason "replaced in May, all its images are in the archive"
    """


@destination.command("list", short_help="List destinations, and what is left for each.")
@json_option
@config_option
@click.pass_obj
def list_destinations(session: Session, as_json: bool) -> None:
    """List every destination that the configuration names, or that deliveries are left for.

    \b
    Example:  edge destination list
    """
    with session.catalog() as conn:
        found = destinations.known(conn, list(session.config.destinations))
    if as_json:
        print_json([_json(each) for each in found])
        return
    columns = ["destination", "configured", "to send", "held", "sent", "confirmed", "cancelled"]
    print_table(columns, [_row(each) for each in found])


def _row(each: Known) -> list[Cell]:
    count = each.deliveries
    to_send = sum(count.get(s, 0) for s in (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED))
    others = (DeliveryState.HELD, DeliveryState.SENT, DeliveryState.CONFIRMED, DeliveryState.CANCELLED)
    return [each.name, "yes" if each.configured else "NO", to_send, *(count.get(state, 0) for state in others)]


def _json(each: Known) -> dict[str, Any]:
    counts = {state.value: each.deliveries.get(state, 0) for state in DeliveryState}
    return {"name": each.name, "configured": each.configured, "left": each.left, **counts}


@destination.command(short_help="End what is left for a destination that has gone.")
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Why; the ledger keeps it.")
@config_option
@click.pass_obj
def retire(session: Session, name: str, reason: str) -> None:
    """Cancel whatever is left for a destination that is no longer configured.

    What waits, is deferred or held is not sent; what was sent and not proved is no longer asked about; what is
    confirmed stays on record. An image that no other destination has or gets becomes unroutable: it stays, and
    `edge queue list --unroutable` shows it.

    \b
    Example:  edge destination retire oldpacs --reason "replaced in May"
    """
    if not reason.strip():
        raise click.UsageError("--reason may not be empty: the ledger keeps it")
    _must_be_gone(session, name)
    who = login()

    def batch(conn: Connection, after: int) -> Progress:
        return destinations.retire(conn, name, after, time.time(), who, reason)

    done = _all(session, batch, "destination-retire", name=name, who=who, reason=reason)
    say(f"{counted(done.ended, 'delivery')} cancelled; what is confirmed stays on record.")
    if done.unroutable:
        what = counted(done.unroutable, "image")
        say(f"{what} had no other destination: see `edge queue list --unroutable`.", "yellow")


@destination.command(short_help="Give what is left to a destination's new name.")
@click.argument("old")
@click.argument("new")
@config_option
@click.pass_obj
def rename(session: Session, old: str, new: str) -> None:
    """Give everything that is left for OLD to NEW: the same archive under another name in the configuration.

    What OLD has confirmed counts as confirmed by NEW. For another archive use `edge queue reroute`.

    \b
    Example:  edge destination rename oldpacs archive
    """
    _must_be_gone(session, old)
    if new not in session.config.destinations:
        there = ", ".join(session.config.destinations) or "none"
        raise click.BadParameter(f'there is no destination "{new}"; there are: {there}')
    who = login()

    def batch(conn: Connection, after: int) -> Progress:
        if not after:
            destinations.begin_rename(conn, old, new, time.time(), who)
        return destinations.rename(conn, old, new, after)

    done = _all(session, batch, "destination-rename", old=old, new=new, who=who)
    say(f"{counted(done.moved + done.ended, 'delivery')} of {old} now belong to {new}.")


def _must_be_gone(session: Session, name: str) -> None:
    if name in session.config.destinations:
        raise EdgeError(f"destination {name} is still configured: remove or rename its table and reload first")
    with session.catalog() as conn:
        if not any(each.name == name for each in destinations.known(conn, ())):
            raise EdgeError(f"nothing is left for a destination {name}; see `edge destination list`")


def _all(session: Session, batch: Callable[[Connection, int], Progress], command: str, **args: object) -> Progress:
    """Batch after batch: by the daemon where it runs, else in the catalog."""
    if session.daemon_runs:
        done = session.ask(command, **args)
        return Progress(None, done["ended"], done["moved"], done["unroutable"])
    with session.store() as store:
        return destinations.all_batches(lambda after: store.write(lambda conn: batch(conn, after)))
