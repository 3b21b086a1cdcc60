"""`edge queue`: what has still to be sent, and a person's part in it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from edge.cli import deciding
from edge.cli.deciding import known_destination, where_of
from edge.cli.session import Session, config_option, json_option
from edge.cli.studies import NO_ROUTE, local, print_facts
from edge.cli.tables import Cell, print_json, print_table, say
from edge.errors import EdgeError
from edge.model import DeliveryState, Priority
from edge.store import queries, undecided
from edge.store.queries import Delivery
from edge.text import age, size, span

WAITING = (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED, DeliveryState.HELD)


@click.group(short_help="What has still to be sent: list, retry, hold, release, cancel.")
@config_option
def queue() -> None:
    """What has still to be sent: list it, try it again, hold it, release it, cancel it.

    \b
    retry    tries again what a destination refused or did not take; never what waits for a decision
    release  ends a hold, and sends a conflict or a mismatch that is named by its ID
    cancel   decides that a delivery is not sent
    What has no route, or lies in quarantine, is decided by `edge instances release` or `discard`.
    """


for _command in deciding.COMMANDS:
    queue.add_command(_command)


# -- looking -----------------------------------------------------------------------------------------------------------


@queue.command("list", short_help="List what waits, and why.")
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only in this state.")
@click.option("--destination", metavar="NAME", help="Only for this destination.")
@click.option("--unroutable", is_flag=True, help="Only what no route matches.")
@click.option("--study", metavar="UID", help="Only of this study.")
@click.option("--limit", default=50, type=click.IntRange(1, 100_000), show_default=True, help="At most so many.")
@json_option
@config_option
@click.pass_obj
def list_queue(
    session: Session,
    state: str | None,
    destination: str | None,
    unroutable: bool,
    study: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List what has still to be sent, what waits for a person first.

    One line is one image for one destination.

    \b
    Example:  edge queue list --state held --destination archive
    """
    states = (DeliveryState(state),) if state else WAITING
    where = where_of(destination, unroutable)
    with session.catalog() as conn:
        found = list(queries.deliveries(conn, states, where, study, limit))
    if not found:
        known_destination(session, destination)
    if as_json:
        print_json([_delivery_json(each) for each in found])
        return
    now = time.time()
    columns = [
        "id",
        "instance",
        "state",
        "destination",
        "priority",
        "tries",
        "waits",
        "next try",
        "reason",
        "study UID",
    ]
    print_table(columns, [_row(each, now) for each in found])
    if len(found) == limit:
        say(f"The first {limit} are shown; `edge status` counts them all.")


def _row(each: Delivery, now: float) -> list[Cell]:
    return [
        str(each.id),
        str(each.instance_id),
        each.state.value,
        each.destination or NO_ROUTE,
        Priority(each.priority).name.lower(),
        each.attempts,
        age(now - each.queued_at),
        f"in {span(each.not_before - now)}" if each.not_before is not None else "",
        each.reason,
        each.study_uid,
    ]


def _delivery_json(each: Delivery) -> dict[str, Any]:
    return asdict(each) | {"priority": Priority(each.priority).name.lower()}


@queue.command("show", short_help="Show one delivery and what happens next.")
@click.argument("delivery_id", metavar="ID", type=int)
@json_option
@config_option
@click.pass_obj
def show_delivery(session: Session, delivery_id: int, as_json: bool) -> None:
    """Show one delivery: where it stands, why, and what happens next.

    \b
    Example:  edge queue show 4711
    """
    with session.catalog() as conn:
        found = queries.delivery(conn, delivery_id)
        versions = queries.versions(conn, found.instance_id) if found else []
    if found is None:
        raise EdgeError(f"there is no delivery {delivery_id}; `edge queue list` shows those that wait")
    if as_json:
        print_json(_delivery_json(found))
        return
    facts: list[tuple[str, Cell]] = [
        ("delivery", str(found.id)),
        ("instance", str(found.instance_id)),
        ("destination", found.destination or NO_ROUTE),
        ("state", found.state.value),
        ("reason", found.reason),
        ("its words", found.peer_text or None),
        ("next", _what_next(found)),
        ("priority", f"{Priority(found.priority).name.lower()} by route {found.route or NO_ROUTE}"),
        ("tries", found.attempts),
        ("last status", None if found.status is None else f"0x{found.status:04X}"),
        ("size", size(found.bytes)),
        ("queued", local(found.queued_at)),
        ("sent", local(found.sent_at)),
        ("confirmed", local(found.confirmed_at)),
        ("study UID", found.study_uid),
        ("SOP instance", found.sop_instance_uid),
    ]
    print_facts(facts)
    for line in undecided.overwrites(versions, found.instance_id) if found.state is DeliveryState.HELD else ():
        say(line, "bold red")


def _what_next(found: Delivery) -> str:
    return {
        DeliveryState.PENDING: "it is sent in its turn",
        DeliveryState.ACTIVE: "it is being sent",
        DeliveryState.DEFERRED: f"it is tried again at {local(found.not_before)}, or when the destination is back",
        DeliveryState.HELD: f"nothing by itself: {undecided.remedy(found)}",
        DeliveryState.SENT: "the destination is asked to prove that it has it",
        DeliveryState.CONFIRMED: "nothing: the destination has it",
        DeliveryState.CANCELLED: "nothing: a person decided that it is not sent",
    }[found.state]
