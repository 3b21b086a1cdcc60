"""The decisions of `edge queue`: retry, release, cancel, hold, promote, reroute.

While the daemon runs it makes the change, and sends at once; otherwise the command changes the catalog.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any

import click

from edge.cli.session import CommandSession, print_note
from edge.cli.tables import fail_unless, say
from edge.model import DeliveryState, Priority, ReasonCode
from edge.store import deliveries as store
from edge.store import queries, undecided
from edge.store.database import Transaction
from edge.store.operator_actions import Moved
from edge.store.queries import Delivery
from edge.text import amount

#: Deliveries in one transaction: scanners wait while one runs.
_BATCH = 500
#: Skipped deliveries that are named.
_NAMED = 5

_STATES = (DeliveryState.HELD, DeliveryState.DEFERRED, DeliveryState.PENDING)


@dataclass(frozen=True, slots=True)
class Selection:
    """The deliveries that a command line selects."""

    ids: tuple[int, ...]
    destination: str | None = None
    unroutable: bool = False
    study: str | None = None
    all: bool = False
    patient: str | None = None

    def __post_init__(self) -> None:
        filtered = self.unroutable or any(each is not None for each in (self.destination, self.study, self.patient))
        if bool(self.ids) + filtered + self.all != 1:
            ways = "by --destination, --unroutable, --study and --patient"
            raise click.UsageError(f"select deliveries by IDs, {ways}, or by --all")

    def find(self, conn: Transaction, states: Sequence[DeliveryState]) -> Iterator[Delivery]:
        """Find the selected deliveries that are in one of these states."""
        if self.ids:
            found = (queries.delivery(conn, each) for each in self.ids)
            return (each for each in found if each is not None and each.state in states)
        where = where_of(self.destination, self.unroutable)
        return queries.deliveries(conn, states, where, self.study, None, self.patient)


def where_of(name: str | None, unroutable: bool) -> str | None:
    """The selected destination; None for any."""
    if unroutable and name is not None:
        raise click.UsageError("--unroutable and --destination exclude each other")
    return store.UNROUTABLE if unroutable else name


def require_destination(session: CommandSession, name: str, what: str = "") -> None:
    """Raise BadParameter where the configuration has no such destination."""
    names = session.config.destinations
    if name not in names:
        raise click.BadParameter(f'{what}there is no destination "{name}"; there are: {", ".join(names) or "none"}')


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select deliveries; the command gets one Selection."""

    @wraps(command)
    def select(
        ids: tuple[int, ...],
        destination: str | None,
        unroutable: bool,
        study: str | None,
        patient: str | None,
        everything: bool,
        **rest: Any,
    ) -> None:
        command(selection=Selection(ids, destination, unroutable, study, everything, patient), **rest)

    selecting: Callable[..., None] = select
    for option in (
        click.option("--all", "everything", is_flag=True, help="Every delivery."),
        click.option("--patient", metavar="ID", help="Deliveries of images that name this Patient ID."),
        click.option("--study", metavar="UID", help="Deliveries of this study."),
        click.option("--unroutable", is_flag=True, help="Instances that no route matches."),
        click.option("--destination", metavar="NAME", help="Deliveries for this destination."),
        click.argument("ids", metavar="[ID]...", type=int, nargs=-1),
    ):
        selecting = option(selecting)
    return selecting


_PRIORITIES = click.Choice([each.name.lower() for each in Priority])


def _check_reason(_ctx: click.Context, _param: click.Parameter, reason: str) -> str:
    if not reason.strip():
        raise click.BadParameter("must not be empty")
    return reason


reason_option = click.option(
    "--reason", required=True, metavar="TEXT", callback=_check_reason, help="Why; recorded in the ledger."
)
optional_reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; recorded in the ledger.")
overwrite_option = click.option(
    "--yes", is_flag=True, help="Do not ask before another version at a destination is overwritten."
)


# -- commands ----------------------------------------------------------------------------------------------------------


@click.command("retry", short_help="Retry refused and deferred deliveries now.")
@_selecting
@optional_reason_option
@click.pass_obj
def retry(session: CommandSession, selection: Selection, reason: str) -> None:
    """Retry deliveries now that a destination refused, or that wait for their next attempt.

    A retry never sends a delivery that waits for a person's decision (a conflict, a mismatch, no route, a person's
    hold), whatever it selects: it counts them, and names the command that decides them. With --destination the gateway
    also tries at once whether a destination that is down answers.

    \b
    Examples:  edge queue retry 4711 4712
               edge queue retry --destination archive
    """
    found = _find(session, selection, (DeliveryState.HELD, DeliveryState.DEFERRED))
    queued = 0 if selection.ids else _count(session, selection, (DeliveryState.PENDING, DeliveryState.ACTIVE))
    moved = _move(session, "queue-retry", found, reason)
    name = selection.destination
    if name in session.config.destinations and session.daemon_runs:
        session.ask("destination-try", name=name, reason=reason or "edge queue retry")
        say(f"{name} is tried now.")
    why_not = "only held and deferred deliveries can be retried"
    _report(moved, selection, found, "queued to be sent", why_not, queued=queued)


@click.command("release", short_help="Release held deliveries, or a conflict by its ID.")
@click.argument("ids", metavar="[ID]...", type=int, nargs=-1)
@click.option("--study", metavar="UID", help="Deliveries of this study except conflicts and mismatches.")
@click.option("--destination", metavar="NAME", help="What people hold for this destination.")
@click.option("--patient", metavar="ID", help="What people hold of this Patient ID.")
@reason_option
@overwrite_option
@click.pass_obj
def release(
    session: CommandSession,
    ids: tuple[int, ...],
    study: str | None,
    destination: str | None,
    patient: str | None,
    reason: str,
    yes: bool,
) -> None:
    """Send held deliveries: those named by ID, those of a study, or what people hold for a destination or of a patient.

    A conflict or a mismatch is released by its own ID only. Where a destination has another version under the same
    SOP Instance UID, the command warns first, because the release overwrites that version.

    \b
    Examples:  edge queue release 4711 --reason "the right one"
               edge queue release --study 1.2.840.113619.2.55 --reason "checked"
               edge queue release --destination archive --reason "it is repaired"
    """
    selection = Selection(ids, destination, study=study, patient=patient)
    found = _find(session, selection, (DeliveryState.HELD,))
    by_people_alone = destination is not None or patient is not None
    chosen = [each for each in found if each.reason_code is ReasonCode.PERSON or not by_people_alone]
    if ids:
        warn(session, [each.instance_id for each in found], yes=yes)
    moved = _move(session, "queue-release", chosen, reason, named=bool(ids))
    others = "no person holds them: name their IDs, or --study"
    why_not = others if by_people_alone else "only held deliveries can be released"
    _report(moved, selection, found, "queued to be sent", why_not)


@click.command("cancel", short_help="Cancel deliveries: they are not sent.")
@_selecting
@reason_option
@click.pass_obj
def cancel(session: CommandSession, selection: Selection, reason: str) -> None:
    """Cancel waiting deliveries: they are not sent. The images stay on disk as long as others do (retention.keep).

    A delivery that is being sent at this moment cannot be cancelled, and is skipped. An unroutable instance is decided
    by `edge instances release` or `edge instances discard`.

    \b
    Example:  edge queue cancel 4711 --reason "sent by CD"
    """
    found = _find(session, selection, _STATES)
    moved = _move(session, "queue-cancel", found, reason)
    _report(moved, selection, found, "cancelled", "only waiting deliveries can be cancelled")


@click.command("hold", short_help="Hold deliveries until a person releases them.")
@_selecting
@optional_reason_option
@click.pass_obj
def hold(session: CommandSession, selection: Selection, reason: str) -> None:
    """Hold waiting deliveries: they are not sent until a person releases them.

    \b
    Example:  edge queue hold --study 1.2.840.113619.2.55 --reason "wrong patient"
    """
    found = _find(session, selection, (DeliveryState.PENDING, DeliveryState.DEFERRED))
    moved = _move(session, "queue-hold", found, reason)
    _report(moved, selection, found, "held", "only pending and deferred deliveries can be held")


@click.command("promote", short_help="Change the priority of deliveries.")
@_selecting
@click.option("--to", "priority", type=_PRIORITIES, default="stat", show_default=True, help="The new priority.")
@reason_option
@click.pass_obj
def promote(session: CommandSession, selection: Selection, priority: str, reason: str) -> None:
    """Change the priority of waiting deliveries: stat is sent before urgent, urgent before routine.

    \b
    Example:  edge queue promote --study 1.2.840.113619.2.55 --reason "ward waits"
    """
    wanted = Priority[priority.upper()]
    goal = Goal(f"made {priority}", f"{priority} already", lambda each: each.priority == wanted)
    _override(session, selection, "queue-set-priority", goal, reason, priority=priority)


@click.command("reroute", short_help="Send deliveries to another destination instead.")
@_selecting
@click.option("--to", "other", required=True, metavar="NAME", help="The destination that gets them instead.")
@reason_option
@click.pass_obj
def reroute(session: CommandSession, selection: Selection, other: str, reason: str) -> None:
    """Send waiting deliveries to another destination instead of their own. Skips images that have a
    delivery for it already.

    A conflict or a mismatch stays held, for the other destination. A delivery that a person holds stays held, too,
    unless its ID is named.

    \b
    Example:  edge queue reroute --unroutable --to archive --reason "no route"
    """
    require_destination(session, other)
    goal = Goal("rerouted", f"for {other} already", lambda each: each.destination == other)
    _override(session, selection, "queue-reroute", goal, reason, destination=other, named=bool(selection.ids))


DECISIONS = (retry, release, cancel, hold, promote, reroute)


# -- making the change -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Goal:
    """The result of a decision, and which deliveries have it already."""

    done: str
    already: str
    is_reached: Callable[[Delivery], bool]


def _override(
    session: CommandSession, selection: Selection, command: str, goal: Goal, reason: str, **fields: object
) -> None:
    found = _find(session, selection, _STATES)
    chosen = [each for each in found if not goal.is_reached(each)]
    reached = len(found) - len(chosen)
    moved = _move(session, command, chosen, reason, **fields)
    reasons = [f"{reached:,} {'is' if reached == 1 else 'are'} {goal.already}"] if reached else []
    if (len(selection.ids) or len(found)) - moved.count > reached:
        reasons.append("only waiting deliveries can be changed, and nothing is sent twice")
    _report(moved, selection, found, goal.done, "; ".join(reasons))


def _find(session: CommandSession, selection: Selection, states: Sequence[DeliveryState]) -> list[Delivery]:
    with session.catalog() as conn:
        found = list(selection.find(conn, states))
    if not found and selection.destination is not None:
        require_destination(session, selection.destination, "nothing is queued, and ")
    return found


def _count(session: CommandSession, selection: Selection, states: Sequence[DeliveryState]) -> int:
    with session.quiet_catalog() as conn:
        return sum(1 for _ in selection.find(conn, states))


def warn(session: CommandSession, instances: Sequence[int], *, yes: bool) -> None:
    """Print what sending these instances overwrites at a destination, and ask at a terminal whether to continue."""
    with session.quiet_catalog() as conn:
        lines = [
            line for each in instances for line in undecided.overwrites(queries.list_object_versions(conn, each), each)
        ]
    for line in lines:
        print_note(line)
    if lines and not yes and sys.stdin.isatty():
        click.confirm("Overwrite that version?", abort=True, err=True)


def _move(session: CommandSession, command: str, chosen: Sequence[Delivery], reason: str, **fields: object) -> Moved:
    moved = Moved()
    for batch in split_batches([each.id for each in chosen]):
        answer = session.change(command, ids=batch, reason=reason, **fields)
        moved += Moved(answer["moved"], {ReasonCode(code): n for code, n in answer.get("left", {}).items()})
    return moved


def split_batches(ids: Sequence[int]) -> Iterator[list[int]]:
    """Split IDs into batches for one transaction each."""
    left = iter(ids)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _report(
    moved: Moved, selection: Selection, found: Sequence[Delivery], done: str, why_not: str, *, queued: int = 0
) -> None:
    """Print what was done, and what was skipped and why. Exit 1 where anything was skipped.

    `queued`: selected deliveries that were queued before.
    """
    if moved.count or not queued:
        say(f"{amount(moved.count, 'delivery')} {done}.")
    if queued:
        be = "is" if queued == 1 else "are"
        say(f"{amount(queued, 'delivery')} {be} queued already, and {be} sent as soon as the destination takes them.")
    for code, n in moved.left.items():
        numbers = list(dict.fromkeys(each.instance_id for each in found if each.reason_code is code))
        named = ", ".join(map(str, numbers[:_NAMED])) + (", ..." if len(numbers) > _NAMED else "")
        say(
            f"{n:,} left for a person to decide ({code.value}; instance {named}): {_decided_by(code, numbers)}.",
            "yellow",
        )
    asked = len(selection.ids) or len(found)
    rest = asked - moved.count - sum(moved.left.values())
    if rest > 0:
        say(f"{rest:,} left unchanged: {why_not}.", "yellow")
    fail_unless(moved.count >= asked)


def _decided_by(code: ReasonCode, instances: Sequence[int]) -> str:
    command = undecided.decided_by(code)
    return command.replace("instances show ID", f"instances show {instances[0]}") if len(instances) == 1 else command
