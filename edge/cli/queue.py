"""`edge queue`: the deliveries that wait, and the decisions about them.

The list has patient data, for people who may read the data directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import click

from edge.cli import deciding
from edge.cli.deciding import require_destination, where_of
from edge.cli.parts import ListedPart, cut_part, part_options, print_part, rows_for, say_part
from edge.cli.session import CommandSession, json_option
from edge.cli.studies import UNROUTED
from edge.cli.tables import Cell, Columns, local_time, print_facts, print_json, print_rows, say
from edge.errors import EdgeError
from edge.model import DeliveryState, Priority
from edge.store import queries, undecided
from edge.store.database import Transaction
from edge.store.listing import ListPart
from edge.store.queries import Delivery
from edge.store.waiting import (
    MOST_READ,
    QUEUE_STATES,
    StudyFacts,
    WaitingGroup,
    list_waiting_studies,
    study_facts,
    waiting_reason,
)
from edge.text import age, size, span

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueuedPart:
    """What waits of one study in one state for one destination, and the study."""

    group: WaitingGroup
    study: StudyFacts
    reason: str


def _age(each: Delivery | WaitingGroup) -> str:
    return age(time.time() - each.queued_at)


def _priority(each: Delivery | WaitingGroup) -> str:
    return Priority(each.priority).name.lower()


def _next_try(each: Delivery | WaitingGroup) -> str | None:
    return None if each.not_before is None else f"in {span(each.not_before - time.time())}"


_STUDY_COLUMNS: Columns[QueuedPart] = {
    "age": lambda each: _age(each.group),
    "images": lambda each: each.group.count,
    "priority": lambda each: _priority(each.group),
    "next try": lambda each: _next_try(each.group),
    "patient ID": lambda each: each.study.patient_id,
    "name": lambda each: each.study.patient_name,
    "study UID": lambda each: each.study.study_uid,
}
_DELIVERY_COLUMNS: Columns[Delivery] = {
    "id": lambda each: str(each.id),
    "instance": lambda each: str(each.instance_id),
    "priority": _priority,
    "tries": lambda each: each.attempts,
    "age": _age,
    "next try": _next_try,
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


@queue.command("list", short_help="List the studies that wait, with the reasons.")
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only in this state.")
@click.option("--destination", metavar="NAME", help="Only for this destination.")
@click.option("--unroutable", is_flag=True, help="Only unroutable images.")
@click.option("--study", metavar="UID", help="Each delivery of this study.")
@click.option("--patient", metavar="ID", help="Each delivery of images that name this Patient ID.")
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
    """List the studies that wait, by destination and reason; those that wait for a person's decision first.

    With --study or --patient, and for a state that waits no more, it lists each delivery with its ID; with --json
    always.

    \b
    Example:  edge queue list --state held --destination archive
    """
    states = (DeliveryState(state),) if state else QUEUE_STATES
    where = where_of(destination, unroutable)
    none = "No such delivery." if where is not None or state or study or patient else "No delivery waits."
    if as_json or study or patient or not set(states) <= set(QUEUE_STATES):
        with session.catalog() as conn:
            found = queries.deliveries(conn, states, where, study, rows_for(part), patient)
            read = cut_part([_name_removal(session, each) for each in found], part)
        _require_if_empty(session, where, is_empty=read.total == 0)
        if as_json:
            print_part(read, {}, none, as_json=True, json_of=_delivery_json)
        else:
            columns = {name: cell for name, cell in _DELIVERY_COLUMNS.items() if not study or name != "study UID"}
            _print_by_reason(read, columns, none, lambda each: _heading(each, each.reason))
    else:
        _print_studies(session, states, where, part, none)


def _print_studies(
    session: CommandSession, states: Sequence[DeliveryState], where: str | None, part: ListPart, none: str
) -> None:
    with session.catalog() as conn:
        waiting = list_waiting_studies(conn, states, where, most=MOST_READ)
        groups = [group for each in waiting for group in each.groups]
        found = _read_parts(session, conn, groups, part)
    _require_if_empty(session, where, is_empty=not groups)
    session.record_access([each.group.study_id for each in found.rows if each.group.study_id], "edge queue list")
    _print_by_reason(found, _STUDY_COLUMNS, none, lambda each: _heading(each.group, each.reason))
    if any(sum(group.count for group in groups if group.state is each) >= MOST_READ for each in states):
        say(f"The list has the first {MOST_READ:,} images of each state; --destination shows more of it.", "yellow")
    if found.rows:
        say("`edge queue list --study UID` lists each image with its ID.")


def _require_if_empty(session: CommandSession, destination: str | None, *, is_empty: bool) -> None:
    if is_empty and destination:
        require_destination(session, destination, "nothing is queued, and ")


def _read_parts(
    session: CommandSession, conn: Transaction, groups: Sequence[WaitingGroup], part: ListPart
) -> ListedPart[QueuedPart]:
    """Cut a part out of groups, and read what it is about."""
    chosen = groups[part.skip : part.skip + part.limit]
    studies = study_facts(conn, [each.study_id for each in chosen], counts=False)
    reasons = [_REMOVED if _is_removed(session, each) else waiting_reason(conn, each).text for each in chosen]
    read = [QueuedPart(each, studies[each.study_id], why) for each, why in zip(chosen, reasons, strict=True)]
    return ListedPart(part, read, len(groups))


def _heading(each: Delivery | WaitingGroup, reason: str) -> str:
    where = f"{each.destination or UNROUTED}, {each.state.label}"
    return f"{where}: {reason}" if reason else where


def _print_by_reason(found: ListedPart[T], columns: Columns[T], none: str, heading_of: Callable[[T], str]) -> None:
    """Print the rows of a part of a list below the destination, the state and the reason that they share."""
    shared: dict[str, list[T]] = {}
    for row in found.rows:
        shared.setdefault(heading_of(row), []).append(row)
    for heading, rows in shared.items():
        say(heading, "bold")
        print_rows(columns, rows)
        say("")
    if not found.rows and not found.total:
        say(none, "green")
    say_part(found, as_json=False)


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


_REMOVED = "the destination is not configured any more"


def _is_removed(session: CommandSession, found: Delivery | WaitingGroup) -> bool:
    """Does a delivery wait for a destination that is not configured any more? It is not tried, whatever is noted."""
    is_automatic = found.state in (DeliveryState.PENDING, DeliveryState.DEFERRED)
    return is_automatic and found.destination not in session.config.destinations


def _name_removal(session: CommandSession, found: Delivery) -> Delivery:
    if not _is_removed(session, found):
        return found
    return replace(found, reason=_REMOVED)


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
