"""`edge destination`: list destinations; retire or rename a removed one."""

from __future__ import annotations

from typing import Any

import click

from edge.cli.deciding import reason_option, require_destination
from edge.cli.session import CommandSession, json_option, print_note
from edge.cli.tables import Cell, print_json, print_table, say
from edge.errors import EdgeError
from edge.model import DeliveryState
from edge.store import destinations
from edge.store.destinations import DestinationCounts
from edge.text import amount

KIND_WORDS = {"dimse": "DIMSE", "dicomweb": "DICOMweb"}


@click.group(short_help="List, retire and rename destinations.")
def destination() -> None:
    """List destinations; retire or rename one that is no longer configured.

    \b
    Examples:  edge destination list
               edge destination rename oldpacs archive
               edge destination retire oldpacs --reason "replaced in May"
    """


@destination.command("list", short_help="List destinations with their deliveries.")
@json_option
@click.pass_obj
def list_destinations(session: CommandSession, as_json: bool) -> None:
    """List every destination that is configured or has deliveries left.

    \b
    Example:  edge destination list
    """
    with session.catalog() as conn:
        found = destinations.count_destinations(conn, list(session.config.destinations))
    if as_json:
        print_json([_json(each, _kind(session, each)) for each in found])
        return
    columns = ["destination", "kind", "to send", "held", "sent", "confirmed", "cancelled"]
    print_table(columns, [_row(each, _kind(session, each)) for each in found])


def _kind(session: CommandSession, each: DestinationCounts) -> str:
    """How it is reached; empty where it is not configured any more."""
    configured = session.config.destinations.get(each.name)
    return configured.kind if configured is not None else ""


def _row(each: DestinationCounts, kind: str) -> list[Cell]:
    count = each.deliveries
    to_send = sum(count.get(s, 0) for s in (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED))
    others = (DeliveryState.HELD, DeliveryState.SENT, DeliveryState.CONFIRMED, DeliveryState.CANCELLED)
    return [each.name, KIND_WORDS.get(kind, "not configured"), to_send, *(count.get(state, 0) for state in others)]


def _json(each: DestinationCounts, kind: str) -> dict[str, Any]:
    counts = {state.value: each.deliveries.get(state, 0) for state in DeliveryState}
    return {"name": each.name, "configured": each.configured, "kind": kind or None, "left": each.left, **counts}


@destination.command(short_help="Cancel what is left for a removed destination.")
@click.argument("name")
@reason_option
@click.pass_obj
def retire(session: CommandSession, name: str, reason: str) -> None:
    """Cancel all remaining deliveries for a destination that is no longer configured.

    Pending, deferred and held deliveries are not sent; sent ones are no longer asked about; confirmed ones stay on
    record. An image that no other destination has or gets becomes unroutable: it is kept, and
    `edge queue list --unroutable` lists it.

    \b
    Example:  edge destination retire oldpacs --reason "replaced in May"
    """
    _require_removed(session, name)
    with session.quiet_catalog() as conn:
        for each in destinations.list_kept_proofs(conn, (), name):
            kept = amount(each.count, "image")
            print_note(
                f"{name} has proved {kept} that {each.rule} keeps: keep it running, or send them elsewhere first"
            )
    done = session.change("destination-retire", name=name, reason=reason)
    say(f"{amount(done['ended'], 'delivery')} cancelled; confirmed deliveries stay on record.")
    if done["unroutable"]:
        what = amount(done["unroutable"], "image")
        say(f"{what} had no other destination: see `edge queue list --unroutable`.", "yellow")


@destination.command(short_help="Move deliveries to the new name of a destination.")
@click.argument("old")
@click.argument("new")
@click.pass_obj
def rename(session: CommandSession, old: str, new: str) -> None:
    """Move all deliveries from OLD to NEW: the same archive under another name in the configuration.

    What OLD has confirmed counts as confirmed by NEW. For another archive use `edge queue reroute`.

    \b
    Example:  edge destination rename oldpacs archive
    """
    _require_removed(session, old)
    require_destination(session, new)
    done = session.change("destination-rename", old=old, new=new)
    say(f"{amount(done['moved'] + done['ended'], 'delivery')} of {old} now belong to {new}.")


def _require_removed(session: CommandSession, name: str) -> None:
    if name in session.config.destinations:
        raise EdgeError(f"destination {name} is still configured: remove or rename its table and reload first")
    with session.catalog() as conn:
        if not any(each.name == name for each in destinations.count_destinations(conn, ())):
            raise EdgeError(f"no delivery is left for a destination {name}; see `edge destination list`")
