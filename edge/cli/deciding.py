"""What a person decides in `edge queue`: retry, release, cancel, hold, promote, reroute.

Each goes to the daemon where it runs, so that it goes to work at once; else into the catalog.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import click

from edge.cli.session import Session, config_option, login
from edge.cli.tables import say
from edge.model import DeliveryState, Priority, ReasonCode
from edge.store import deliveries as store
from edge.store import operator_actions, queries, undecided
from edge.store.database import Connection
from edge.store.operator_actions import Moved
from edge.store.queries import Delivery
from edge.text import counted

#: So many deliveries are moved in one transaction, for scanners wait while one runs.
BATCH = 500
#: So many of those that were left are named.
NAMED = 5

#: How a selection is moved where no daemon runs.
Move = Callable[[Connection, Sequence[int]], Moved]

_STATES = (DeliveryState.HELD, DeliveryState.DEFERRED, DeliveryState.PENDING)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which deliveries a person means."""

    ids: tuple[int, ...]
    destination: str | None = None
    unroutable: bool = False
    study: str | None = None
    all: bool = False

    def __post_init__(self) -> None:
        filtered = self.destination is not None or self.unroutable or self.study is not None
        if bool(self.ids) + filtered + self.all != 1:
            raise click.UsageError("say which: some IDs, or --destination, --unroutable and --study, or --all")

    def find(self, conn: Connection, states: Sequence[DeliveryState]) -> Iterator[Delivery]:
        """Those in a state from which they can be moved."""
        if self.ids:
            found = (queries.delivery(conn, each) for each in self.ids)
            return (each for each in found if each is not None and each.state in states)
        where = where_of(self.destination, self.unroutable)
        return queries.deliveries(conn, states, where, self.study, None)


def where_of(name: str | None, unroutable: bool) -> str | None:
    """The destination that is meant; None for any."""
    if unroutable and name is not None:
        raise click.UsageError("--unroutable and --destination exclude each other")
    return store.UNROUTABLE if unroutable else name


def known_destination(session: Session, name: str | None) -> None:
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


def _said(_ctx: click.Context, _param: click.Parameter, reason: str) -> str:
    if not reason.strip():
        raise click.BadParameter("say why: it may not be empty")
    return reason


reasoned = click.option("--reason", required=True, metavar="TEXT", callback=_said, help="Why; the ledger keeps it.")


# -- commands ----------------------------------------------------------------------------------------------------------


@click.command("retry", short_help="Try refused and deferred deliveries again now.")
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
    """Try again now what a destination refused, or what waits for its next try.

    What waits for a person's decision (a conflict, a mismatch, no route, a person's hold) is never sent by this,
    however it was chosen: it is counted, with the command that decides it.

    \b
    Examples:  edge queue retry 4711 4712
               edge queue retry --destination archive
    """
    selection, who = Selection(ids, destination, unroutable, study, everything), login()
    found = _find(session, selection, (DeliveryState.HELD, DeliveryState.DEFERRED))

    def move(conn: Connection, chosen: Sequence[int]) -> Moved:
        return operator_actions.retry(conn, chosen, time.time(), who, reason)

    moved = _move(session, "queue-retry", found, move, who=who, reason=reason)
    _tell(moved, len(ids) or len(found), "queued to be sent", "only what is held or deferred can be tried again", found)


@click.command("release", short_help="End a hold; send a conflict that is named.")
@click.argument("ids", metavar="[ID]...", type=int, nargs=-1)
@click.option("--study", metavar="UID", help="Those of this study but its conflicts and mismatches.")
@reasoned
@click.option("--yes", is_flag=True, help="Do not ask, where other bytes at a destination are replaced.")
@config_option
@click.pass_obj
def release(session: Session, ids: tuple[int, ...], study: str | None, reason: str, yes: bool) -> None:
    """End a hold: send the held deliveries that are named by ID, or those of one study.

    A conflict or a mismatch is released by its own ID only. Where a destination has another version under the same
    SOP Instance UID, that is said before, for this one replaces it there.

    \b
    Examples:  edge queue release 4711 --reason "the right one, by the technologist"
               edge queue release --study 1.2.840.113619.2.55.3.604688119.868 --reason "checked"
    """
    if bool(ids) == (study is not None):
        raise click.UsageError("a decision names its object: some IDs, or one --study")
    selection, who = Selection(ids, study=study), login()
    found = _find(session, selection, (DeliveryState.HELD,))
    if ids:
        warn(session, [each.instance_id for each in found], yes=yes)

    def move(conn: Connection, chosen: Sequence[int]) -> Moved:
        return operator_actions.release(conn, chosen, time.time(), who, reason, named=bool(ids))

    moved = _move(session, "queue-release", found, move, who=who, reason=reason, named=bool(ids))
    _tell(moved, len(ids) or len(found), "queued to be sent", "only what is held can be released", found)


@click.command("cancel", short_help="Decide that deliveries are not sent.")
@_selecting
@reasoned
@config_option
@click.pass_obj
def cancel(
    session: Session,
    ids: tuple[int, ...],
    destination: str | None,
    unroutable: bool,
    study: str | None,
    everything: bool,
    reason: str,
) -> None:
    """Decide that waiting deliveries are not sent. The images stay here as long as others do (retention.keep).

    What is being sent at this moment cannot be called back: it is left as it is. What has no route is decided by
    `edge instances release` or `edge instances discard`.

    \b
    Example:  edge queue cancel 4711 --reason "sent by CD"
    """
    selection, who = Selection(ids, destination, unroutable, study, everything), login()
    found = _find(session, selection, _STATES)

    def move(conn: Connection, chosen: Sequence[int]) -> Moved:
        return operator_actions.cancel(conn, chosen, time.time(), who, reason)

    moved = _move(session, "queue-cancel", found, move, who=who, reason=reason)
    why = "only what waits can be cancelled; what is being sent cannot be called back"
    _tell(moved, len(ids) or len(found), "cancelled", why, found)


@click.command("hold", short_help="Keep deliveries from being sent.")
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

    def move(conn: Connection, chosen: Sequence[int]) -> Moved:
        return Moved(operator_actions.hold(conn, chosen, time.time(), who, told))

    found = _find(session, selection, (DeliveryState.PENDING, DeliveryState.DEFERRED))
    moved = _move(session, "queue-hold", found, move, who=who, reason=told)
    _tell(moved, len(ids) or len(found), "held", "only what is pending or deferred can be held", found)


@click.command("promote", short_help="Send deliveries before others.")
@_selecting
@click.option(
    "--to", "priority", type=_PRIORITIES, default="stat", show_default=True, help="The priority that they get."
)
@reasoned
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

    def move(conn: Connection, chosen: Sequence[int]) -> Moved:
        return Moved(operator_actions.set_priority(conn, chosen, Priority[priority.upper()], time.time(), who, reason))

    goal = Goal(f"made {priority}", f"{priority} already", lambda each: each.priority == Priority[priority.upper()])
    _override(session, selection, "queue-hasten", move, goal, who=who, reason=reason, priority=priority)


@click.command("reroute", short_help="Send deliveries to another destination instead.")
@_selecting
@click.option("--to", "other", required=True, metavar="NAME", help="The destination that gets them instead.")
@reasoned
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

    A conflict or a mismatch stays held, for the other destination; so does what a person holds, unless its ID is named.

    \b
    Example:  edge queue reroute --unroutable --to archive --reason "the route was missing"
    """
    if other not in session.config.destinations:
        there = ", ".join(session.config.destinations) or "none"
        raise click.BadParameter(f'there is no destination "{other}"; there are: {there}')
    selection, who = Selection(ids, destination, unroutable, study, everything), login()

    def move(conn: Connection, chosen: Sequence[int]) -> Moved:
        return Moved(operator_actions.reassign(conn, chosen, other, time.time(), who, reason, named=bool(ids)))

    told = {"who": who, "reason": reason, "destination": other, "named": bool(ids)}
    goal = Goal("sent elsewhere", f"for {other} already", lambda each: each.destination == other)
    _override(session, selection, "queue-redirect", move, goal, **told)


COMMANDS = (retry, release, cancel, hold, promote, reroute)


# -- how it is done ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Goal:
    """What a decision makes of deliveries, and which of them are so before."""

    done: str
    already: str
    is_reached: Callable[[Delivery], bool]


def _override(session: Session, selection: Selection, command: str, move: Move, goal: Goal, **told: object) -> None:
    found = _find(session, selection, _STATES)
    chosen = [each for each in found if not goal.is_reached(each)]
    reached = len(found) - len(chosen)
    moved = _move(session, command, chosen, move, **told)
    asked = len(selection.ids) or len(found)
    reasons = [f"{reached:,} {'is' if reached == 1 else 'are'} {goal.already}"] if reached else []
    if asked - moved.count > reached:
        reasons.append("only what waits can be changed, and nothing is sent twice")
    _tell(moved, asked, goal.done, "; ".join(reasons), found)


def _find(session: Session, selection: Selection, states: Sequence[DeliveryState]) -> list[Delivery]:
    with session.catalog() as conn:
        found = list(selection.find(conn, states))
    if not found:
        known_destination(session, selection.destination)
    return found


def warn(session: Session, instances: Sequence[int], *, yes: bool) -> None:
    """Say what sending these instances replaces at a destination, and ask a person at a terminal whether to go on."""
    with session.quiet_catalog() as conn:
        lines = [line for each in instances for line in undecided.overwrites(queries.versions(conn, each), each)]
    for line in lines:
        click.echo(f"edge: {line}", err=True)
    if lines and not yes and sys.stdin.isatty():
        click.confirm("Replace what is there?", abort=True, err=True)


def _move(session: Session, command: str, chosen: Sequence[Delivery], move: Move, **told: object) -> Moved:
    moved = Moved()
    for batch in batches([each.id for each in chosen]):
        if session.daemon_runs:
            answer = session.ask(command, ids=batch, **told)
            left = {ReasonCode(code): n for code, n in answer.get("left", {}).items()}
            moved += Moved(answer["moved"], left)
        else:
            with session.store() as database:
                moved += database.write(lambda conn, batch=batch: move(conn, batch))  # type: ignore[misc]
    return moved


def batches(ids: Sequence[int]) -> Iterator[list[int]]:
    """In pieces that one transaction takes."""
    left = iter(ids)
    while batch := list(islice(left, BATCH)):
        yield batch


def _tell(moved: Moved, asked: int, done: str, why_not: str, chosen: Sequence[Delivery]) -> None:
    say(f"{counted(moved.count, 'delivery')} {done}.")
    for code, n in moved.left.items():
        numbers = list(dict.fromkeys(each.instance_id for each in chosen if each.reason_code is code))
        named = ", ".join(map(str, numbers[:NAMED])) + (", ..." if len(numbers) > NAMED else "")
        say(
            f"{n:,} left for a person to decide ({code.value}; instance {named}): {_decided_by(code, numbers)}.",
            "yellow",
        )
    rest = asked - moved.count - sum(moved.left.values())
    if rest > 0:
        say(f"{rest:,} left as they were: {why_not}.", "yellow")
    if moved.count < asked:
        raise SystemExit(1)


def _decided_by(code: ReasonCode, instances: Sequence[int]) -> str:
    said = undecided.decided_by(code)
    return said.replace("instances show ID", f"instances show {instances[0]}") if len(instances) == 1 else said
