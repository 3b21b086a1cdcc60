"""`edge queue`: the deliveries that wait, and the decisions about them."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import click

from edge.cli import deciding
from edge.cli.deciding import require_destination, where_of
from edge.cli.parts import cut_part, part_options, print_part, rows_for
from edge.cli.session import CommandSession, json_option
from edge.cli.studies import UNROUTED
from edge.cli.tables import Cell, Columns, local_time, print_facts, print_json, say
from edge.errors import EdgeError
from edge.model import DeliveryState, Priority
from edge.store import queries, undecided
from edge.store.listing import ListPart
from edge.store.queries import Delivery
from edge.text import age, size, span

WAITING_STATES = (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED, DeliveryState.HELD)
_COLUMNS: Columns[Delivery] = {
    "id": lambda each: str(each.id),
    "instance": lambda each: str(each.instance_id),
    "state": lambda each: each.state.label,
    "destination": lambda each: each.destination or UNROUTED,
    "priority": lambda each: Priority(each.priority).name.lower(),
    "tries": lambda each: each.attempts,
    "age": lambda each: age(time.time() - each.queued_at),
    "next try": lambda each: None if each.not_before is None else f"in {span(each.not_before - time.time())}",
    "reason": lambda each: each.reason,
    "study UID": lambda each: each.study_uid,
}


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
        found = queries.deliveries(conn, states, where, study, rows_for(part), patient)
        read = [_name_removal(session, each) for each in found]
    if not read and destination is not None:
        require_destination(session, destination, "nothing is queued, and ")
    none = "No such delivery." if where is not None or state or study or patient else "No delivery waits."
    print_part(cut_part(read, part), _COLUMNS, none, as_json=as_json, json_of=_delivery_json)


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
    found = _name_removal(session, found)
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
        ("next", _what_next(found, is_removed=_is_removed(session, found))),
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


def _is_removed(session: CommandSession, found: Delivery) -> bool:
    """Does a delivery wait for a destination that is not configured any more? It is not tried, whatever is noted."""
    is_automatic = found.state in (DeliveryState.PENDING, DeliveryState.DEFERRED)
    return is_automatic and found.destination not in session.config.destinations


def _name_removal(session: CommandSession, found: Delivery) -> Delivery:
    if not _is_removed(session, found):
        return found
    return replace(found, reason="the destination is not configured any more")


def _what_next(found: Delivery, *, is_removed: bool) -> str:
    if is_removed:
        name, why = found.destination, '--reason "..."'
        choices = f"`edge destination rename {name} NEW`, or `edge destination retire {name} {why}`"
        return f"sent when [destination.{name}] is back; or {choices}"
    return {
        DeliveryState.PENDING: "sent in its order, when the destination answers",
        DeliveryState.ACTIVE: "it is being sent",
        DeliveryState.DEFERRED: f"retried at {local_time(found.not_before)}, or when the destination answers again",
        DeliveryState.HELD: f"waits for a person: {undecided.remedy(found)}",
        DeliveryState.SENT: "the destination is asked for proof",
        DeliveryState.CONFIRMED: "nothing: the destination has confirmed it",
        DeliveryState.CANCELLED: "nothing: it is not sent, for this reason",
    }[found.state]
