"""`edge queue`: the deliveries that wait, and the decisions about them."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from edge.cli import deciding
from edge.cli.deciding import require_destination, where_of
from edge.cli.parts import cut_part, part_options, rows_for, say_part
from edge.cli.session import CommandSession, json_option
from edge.cli.studies import UNROUTED, local_time, print_facts
from edge.cli.tables import Cell, print_json, print_table, say
from edge.errors import EdgeError
from edge.model import DeliveryState, Priority
from edge.store import queries, undecided
from edge.store.listing import ListPart
from edge.store.queries import Delivery
from edge.text import age, size, span

WAITING_STATES = (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED, DeliveryState.HELD)


@click.group(short_help="Manage waiting deliveries: list, retry, hold, release, cancel.")
def queue() -> None:
    """Manage the deliveries that wait to be sent. A delivery is one image for one destination.

    `edge instances release` and `edge instances discard` decide about unroutable and quarantined images.
    """


for _command in deciding.DECISIONS:
    queue.add_command(_command)


# -- listing -----------------------------------------------------------------------------------------------------------


@queue.command("list", short_help="List waiting deliveries with their reasons.")
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only in this state.")
@click.option("--destination", metavar="NAME", help="Only for this destination.")
@click.option("--unroutable", is_flag=True, help="Only unroutable images.")
@click.option("--study", metavar="UID", help="Only for this study.")
@click.option("--patient", metavar="ID", help="Only for images that name this Patient ID.")
@part_options()
@json_option
@click.pass_obj
def list_queue(
    session: CommandSession,
    state: str | None,
    destination: str | None,
    unroutable: bool,
    study: str | None,
    patient: str | None,
    part: ListPart,
    as_json: bool,
) -> None:
    """List waiting deliveries with their reasons; those that wait for a person's decision first.

    \b
    Example:  edge queue list --state held --destination archive
    """
    states = (DeliveryState(state),) if state else WAITING_STATES
    where = where_of(destination, unroutable)
    with session.catalog() as conn:
        read = list(queries.deliveries(conn, states, where, study, rows_for(part), patient))
    found, total = cut_part(part, read)
    if not read and destination is not None:
        require_destination(session, destination, "nothing is queued, and ")
    if as_json:
        print_json([_delivery_json(each) for each in found])
        return say_part(part, len(found), total, as_json=True)
    now = time.time()
    columns = ["id", "instance", "state", "destination", "priority", "tries", "age", "next try", "reason", "study UID"]
    print_table(columns, [_row(each, now) for each in found])
    return say_part(part, len(found), total, as_json=False)


def _row(each: Delivery, now: float) -> list[Cell]:
    return [
        str(each.id),
        str(each.instance_id),
        each.state.label,
        each.destination or UNROUTED,
        Priority(each.priority).name.lower(),
        each.attempts,
        age(now - each.queued_at),
        f"in {span(each.not_before - now)}" if each.not_before is not None else "",
        each.reason,
        each.study_uid,
    ]


def _delivery_json(each: Delivery) -> dict[str, Any]:
    return asdict(each) | {"priority": Priority(each.priority).name.lower()}


@queue.command("show", short_help="Show one delivery, and what happens next.")
@click.argument("delivery_id", metavar="ID", type=int)
@json_option
@click.pass_obj
def show_delivery(session: CommandSession, delivery_id: int, as_json: bool) -> None:
    """Show one delivery: its state, the reason, and what happens next.

    \b
    Example:  edge queue show 4711
    """
    with session.catalog() as conn:
        found = queries.delivery(conn, delivery_id)
        versions = queries.list_object_versions(conn, found.instance_id) if found else []
    if found is None:
        raise EdgeError(f"there is no delivery {delivery_id}; `edge queue list` shows those that wait")
    if as_json:
        print_json(_delivery_json(found))
        return
    facts: list[tuple[str, Cell]] = [
        ("delivery", str(found.id)),
        ("instance", str(found.instance_id)),
        ("destination", found.destination or UNROUTED),
        ("state", found.state.label),
        ("reason", found.reason),
        ("peer's words", found.peer_text or None),
        ("next", _what_next(found)),
        ("priority", f"{Priority(found.priority).name.lower()} by route {found.route or UNROUTED}"),
        ("tries", found.attempts),
        ("last status", None if found.status is None else f"0x{found.status:04X}"),
        ("size", size(found.bytes)),
        ("queued", local_time(found.queued_at)),
        ("sent", local_time(found.sent_at)),
        ("confirmed", local_time(found.confirmed_at)),
        ("study UID", found.study_uid),
        ("SOP instance", found.sop_instance_uid),
    ]
    print_facts(facts)
    for line in undecided.overwrites(versions, found.instance_id) if found.state is DeliveryState.HELD else ():
        say(line, "bold red")


def _what_next(found: Delivery) -> str:
    return {
        DeliveryState.PENDING: "queued; will be sent in order",
        DeliveryState.ACTIVE: "it is being sent",
        DeliveryState.DEFERRED: f"retried at {local_time(found.not_before)}, or when the destination answers again",
        DeliveryState.HELD: f"waits for a person: {undecided.remedy(found)}",
        DeliveryState.SENT: "the destination is asked for proof",
        DeliveryState.CONFIRMED: "nothing: the destination has confirmed it",
        DeliveryState.CANCELLED: "nothing: it is not sent, for this reason",
    }[found.state]
