"""`edge queue`: what has still to be sent, and a person's part in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import click

from edge import decisions, ledger
from edge import queue as store
from edge.cli.session import Session, config_option, json_option, login
from edge.cli.studies import NO_ROUTE, local, print_facts
from edge.cli.tables import Cell, print_json, print_table, say
from edge.db import Connection
from edge.errors import EdgeError
from edge.model import DeliveryState, Priority
from edge.ops import listing
from edge.ops.listing import Delivery
from edge.ops.words import age, counted, size, span

WAITING = (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED, DeliveryState.HELD)
#: So many deliveries are moved in one transaction, for scanners wait while one runs.
BATCH = 500

#: How a selection is moved where no daemon runs.
Move = Callable[[Connection, Sequence[int]], int]


@click.group(short_help="What has still to be sent: list, retry, hold, release.")
@config_option
def queue() -> None:
    """What has still to be sent: list it, try it again, hold it, release it."""


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
    where = _destination(destination, unroutable)
    with session.catalog() as conn:
        found = list(listing.deliveries(conn, states, where, study, limit))
    if not found:
        _known_destination(session, destination)
    if as_json:
        print_json([_delivery_json(each) for each in found])
        return
    now = time.time()
    columns = ["id", "state", "destination", "priority", "tries", "waits", "next try", "reason", "study UID"]
    print_table(columns, [_row(each, now) for each in found])
    if len(found) == limit:
        say(f"The first {limit} are shown; `edge status` counts them all.")


def _row(each: Delivery, now: float) -> list[Cell]:
    return [
        str(each.id),
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
        found = listing.delivery(conn, delivery_id)
    if found is None:
        raise EdgeError(f"there is no delivery {delivery_id}; `edge queue list` shows those that wait")
    if as_json:
        print_json(_delivery_json(found))
        return
    facts: list[tuple[str, Cell]] = [
        ("delivery", str(found.id)),
        ("destination", found.destination or NO_ROUTE),
        ("state", found.state.value),
        ("reason", found.reason),
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


def _what_next(found: Delivery) -> str:
    if not found.destination:
        return "nothing by itself: add a route, reload, then `edge queue retry --unroutable`"
    return {
        DeliveryState.PENDING: "it is sent in its turn",
        DeliveryState.ACTIVE: "it is being sent",
        DeliveryState.DEFERRED: f"it is tried again at {local(found.not_before)}, or when the destination is back",
        DeliveryState.HELD: f"nothing by itself: `edge queue release {found.id}` sends it",
        DeliveryState.SENT: "the destination is asked to prove that it has it",
        DeliveryState.CONFIRMED: "nothing: the destination has it",
        DeliveryState.CANCELLED: "nothing: a person decided that it is not sent",
    }[found.state]


# -- deciding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """Which deliveries a person means."""

    ids: tuple[int, ...]
    destination: str | None
    unroutable: bool
    study: str | None
    all: bool

    def __post_init__(self) -> None:
        filtered = self.destination is not None or self.unroutable or self.study is not None
        if bool(self.ids) + filtered + self.all != 1:
            raise click.UsageError("say which: some IDs, or --destination, --unroutable and --study, or --all")

    def find(self, conn: Connection, states: Sequence[DeliveryState]) -> Iterator[Delivery]:
        """Those in a state from which they can be moved."""
        if self.ids:
            found = (listing.delivery(conn, each) for each in self.ids)
            return (each for each in found if each is not None and each.state in states)
        where = _destination(self.destination, self.unroutable)
        return listing.deliveries(conn, states, where, self.study, None)


def _destination(name: str | None, unroutable: bool) -> str | None:
    if unroutable and name is not None:
        raise click.UsageError("--unroutable and --destination exclude each other")
    return store.UNROUTABLE if unroutable else name


def _known_destination(session: Session, name: str | None) -> None:
    """Nothing was found for it: is that because there is no such destination?"""
    names = session.config.destinations
    if name is not None and name not in names:
        there = ", ".join(names) or "none"
        raise click.BadParameter(
            f'nothing is queued for "{name}", and there is no such destination; there are: {there}'
        )


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--all", "everything", is_flag=True, help="All of them."),
        click.option("--study", metavar="UID", help="Those of this study."),
        click.option("--unroutable", is_flag=True, help="Those that no route matched."),
        click.option("--destination", metavar="NAME", help="Those for this destination."),
        click.argument("ids", metavar="[ID]...", type=int, nargs=-1),
    ):
        command = option(command)
    return command


_PRIORITIES = click.Choice([each.name.lower() for each in Priority])
_reasoned = click.option("--reason", required=True, metavar="TEXT", help="Why; the ledger keeps it.")


Selected = tuple[tuple[int, ...], str | None, bool, str | None, bool]


@queue.command("retry", short_help="Send held and deferred deliveries now.")
@_selecting
@click.option("--reason", default="", metavar="TEXT", help="Why, for the ledger.")
@config_option
@click.pass_obj
def retry(
    session: Session,
    ids: tuple[int, ...],
    destination: str | None,
    unroutable: bool,
    study: str | None,
    everything: bool,
    reason: str,
) -> None:
    """Send held and deferred deliveries now; ask the routes again about unroutable ones.

    \b
    Examples:  edge queue retry 4711 4712
               edge queue retry --destination archive
               edge queue retry --unroutable
    """
    selection = Selection(ids, destination, unroutable, study, everything)
    states = (DeliveryState.HELD, DeliveryState.DEFERRED)
    _send_again(session, selection, states, "queue-retry", ledger.RETRIED, reason)


@queue.command("release", short_help="Send held deliveries now.")
@_selecting
@click.option("--reason", default="", metavar="TEXT", help="Why, for the ledger.")
@config_option
@click.pass_obj
def release(
    session: Session,
    ids: tuple[int, ...],
    destination: str | None,
    unroutable: bool,
    study: str | None,
    everything: bool,
    reason: str,
) -> None:
    """Send held deliveries now, such as conflicts after a look at them.

    The same as retry, for held deliveries only; the ledger notes that a person released them.

    \b
    Example:  edge queue release --study 1.2.840.113619.2.55.3.604688119.868
    """
    selection = Selection(ids, destination, unroutable, study, everything)
    _send_again(session, selection, (DeliveryState.HELD,), "queue-release", ledger.RELEASED, reason)


@queue.command("hold", short_help="Keep deliveries from being sent.")
@_selecting
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever comes next.")
@config_option
@click.pass_obj
def hold(
    session: Session,
    ids: tuple[int, ...],
    destination: str | None,
    unroutable: bool,
    study: str | None,
    everything: bool,
    reason: str,
) -> None:
    """Keep waiting deliveries from being sent until a person releases them.

    \b
    Example:  edge queue hold --study 1.2.840.113619.2.55.3.604688119.868 --reason "wrong patient"
    """
    selection, who = Selection(ids, destination, unroutable, study, everything), login()
    told = f'held by {who}: "{reason}"' if reason else f"held by {who}"

    def move(conn: Connection, chosen: Sequence[int]) -> int:
        return decisions.hold(conn, chosen, time.time(), who, told)

    with session.catalog() as conn:
        chosen = [each.id for each in selection.find(conn, (DeliveryState.PENDING, DeliveryState.DEFERRED))]
    if not chosen:
        _known_destination(session, selection.destination)
    moved = _move(session, "queue-hold", chosen, move, who=who, reason=told)
    _tell(moved, len(ids) or len(chosen), "held", "only what is pending or deferred can be held")


@queue.command("promote", short_help="Send deliveries before others.")
@_selecting
@click.option(
    "--to", "priority", type=_PRIORITIES, default="stat", show_default=True, help="The priority that they get."
)
@_reasoned
@config_option
@click.pass_obj
def promote(
    session: Session,
    ids: tuple[int, ...],
    destination: str | None,
    unroutable: bool,
    study: str | None,
    everything: bool,
    priority: str,
    reason: str,
) -> None:
    """Give waiting deliveries another priority: stat goes before urgent, urgent before routine.

    \b
    Example:  edge queue promote --study 1.2.840.113619.2.55.3.604688119.868 --reason "the ward waits"
    """
    selection, who = Selection(ids, destination, unroutable, study, everything), login()
    wanted = Priority[priority.upper()]

    def move(conn: Connection, chosen: Sequence[int]) -> int:
        return decisions.hasten(conn, chosen, wanted, time.time(), who, reason)

    goal = Goal(f"made {priority}", f"{priority} already", lambda each: each.priority == wanted)
    _override(session, selection, "queue-hasten", move, goal, who=who, reason=reason, priority=priority)


@queue.command("reroute", short_help="Send deliveries to another destination instead.")
@_selecting
@click.option("--to", "other", required=True, metavar="NAME", help="The destination that gets them instead.")
@_reasoned
@config_option
@click.pass_obj
def reroute(
    session: Session,
    ids: tuple[int, ...],
    destination: str | None,
    unroutable: bool,
    study: str | None,
    everything: bool,
    other: str,
    reason: str,
) -> None:
    """Send waiting deliveries to another destination instead of theirs; what that gets anyway stays as it is.

    \b
    Example:  edge queue reroute --unroutable --to archive --reason "the route was missing"
    """
    if other not in session.config.destinations:
        there = ", ".join(session.config.destinations) or "none"
        raise click.BadParameter(f'there is no destination "{other}"; there are: {there}')
    selection, who = Selection(ids, destination, unroutable, study, everything), login()

    def move(conn: Connection, chosen: Sequence[int]) -> int:
        return decisions.redirect(conn, chosen, other, time.time(), who, reason)

    goal = Goal("sent elsewhere", f"for {other} already", lambda each: each.destination == other)
    _override(session, selection, "queue-redirect", move, goal, who=who, reason=reason, destination=other)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a decision makes of deliveries, and which of them are so before."""

    done: str
    already: str
    is_reached: Callable[[Delivery], bool]


def _override(session: Session, selection: Selection, command: str, move: Move, goal: Goal, **told: object) -> None:
    with session.catalog() as conn:
        states = (DeliveryState.HELD, DeliveryState.DEFERRED, DeliveryState.PENDING)
        found = list(selection.find(conn, states))
    if not found:
        _known_destination(session, selection.destination)
    chosen = [each.id for each in found if not goal.is_reached(each)]
    reached = len(found) - len(chosen)
    moved = _move(session, command, chosen, move, **told)
    asked = len(selection.ids) or len(found)
    reasons = [f"{reached:,} {'is' if reached == 1 else 'are'} {goal.already}"] if reached else []
    if asked - moved > reached:
        reasons.append("only what waits can be changed, and nothing is sent twice")
    _tell(moved, asked, goal.done, "; ".join(reasons))


def _send_again(
    session: Session, selection: Selection, states: Sequence[DeliveryState], command: str, event: str, reason: str
) -> None:
    who = login()

    def move(conn: Connection, chosen: Sequence[int]) -> int:
        return decisions.retry(conn, chosen, time.time(), who, event, reason)

    with session.catalog() as conn:
        found = [(each.id, each.instance_id, bool(each.destination)) for each in selection.find(conn, states)]
    if not found:
        _known_destination(session, selection.destination)
    routed = [delivery for delivery, _, has_route in found if has_route]
    unrouted = [instance for _, instance, has_route in found if not has_route]
    moved = _move(session, command, routed, move, who=who, reason=reason)
    moved += _reroute(session, unrouted, who, reason)
    why = f"only what is {' or '.join(state.value for state in states)}, and has a route, can be sent again"
    _tell(moved, len(selection.ids) or len(found), "queued to be sent", why)


def _reroute(session: Session, instances: Sequence[int], who: str, reason: str) -> int:
    if instances and not session.daemon_runs:
        told = counted(len(instances), "delivery")
        raise EdgeError(f"{told} without a route: only the running gateway can ask the routes again; start it first")
    return sum(
        session.ask("queue-reroute", ids=batch, who=who, reason=reason)["moved"] for batch in _batches(instances)
    )


def _move(session: Session, command: str, chosen: Sequence[int], move: Move, **told: object) -> int:
    """By the daemon where it runs, so that it goes to work at once; else in the catalog."""
    moved = 0
    for batch in _batches(chosen):
        if session.daemon_runs:
            moved += session.ask(command, ids=batch, **told)["moved"]
        else:
            moved += session.change(lambda conn, batch=batch: move(conn, batch))  # type: ignore[misc]
    return moved


def _batches(ids: Sequence[int]) -> Iterator[list[int]]:
    left = iter(ids)
    while batch := list(islice(left, BATCH)):
        yield batch


def _tell(moved: int, asked: int, done: str, why_not: str) -> None:
    said = counted(moved, "delivery")
    say(f"{said} {done}.")
    if moved < asked:
        say(f"{asked - moved:,} left as they were: {why_not}.", "yellow")
        raise SystemExit(1)
