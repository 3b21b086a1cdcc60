"""Alerts about what waits for a person's decision: each names the object, and what decides about it."""

from __future__ import annotations

from collections.abc import Iterator

from edge.config.alarms import MAJOR, MINOR
from edge.model import NEEDS_DECISION, ReasonCode
from edge.ops.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.ops.facts import Action, Alert, Held
from edge.ops.words import counted, printable

_REASON = ("--reason", "...")
SHOW = Action("{} puts its versions side by side", ("edge", "instances", "show", "ID"))
RELEASE = Action("{} sends it where the routes say", ("edge", "instances", "release", "ID", *_REASON))
DISCARD = Action("{} refuses it", ("edge", "instances", "discard", "ID", *_REASON))


def _listed(state: str) -> Action:
    return Action("{} names them", ("edge", "instances", "list", "--state", state))


def conflict(seen: Observed) -> Iterator[Alert]:
    for each in seen.troubles:
        if each.state == "conflict":
            what = f"{counted(each.count, 'image')} came with other bytes under a known SOP Instance UID"
            actions = (_listed("conflict"), SHOW, RELEASE, DISCARD)
            yield alert("conflict", "instances", MINOR, each.since, what, "both versions are kept", *actions)


def quarantine(seen: Observed) -> Iterator[Alert]:
    for each in seen.troubles:
        if each.state == "quarantined":
            what = f"{counted(each.count, 'image')} could not be read or trusted and went nowhere"
            means = "the bytes are kept, and the scanner was answered that it failed"
            show = Action("{} says why, and what it is", ("edge", "instances", "show", "ID"))
            export = Action("{} copies it", ("edge", "instances", "export", "ID", "DIR"))
            actions = (_listed("quarantined"), show, export, RELEASE, DISCARD)
            yield alert("quarantine", "instances", MINOR, each.since, what, means, *actions)


def work_held(seen: Observed) -> Iterator[Alert]:
    for each in seen.held:
        if each.destination:
            reason = printable(each.reason) or "no reason noted"
            yield alert(
                "work-held",
                each.destination,
                MAJOR,
                each.since,
                f"{counted(each.count, 'image')} for {each.destination} held for a person to decide ({reason})",
                "safe on disk",
                *_decisions_of(each),
            )


def _decisions_of(held: Held) -> Iterator[Action]:
    """What decides about each reason for which something is held."""
    yield Action("{} says why", ("edge", "queue", "list", "--state", "held", "--destination", held.destination))
    codes = held.codes
    if ReasonCode.CONFLICT in codes or ReasonCode.MISMATCH in codes:
        yield SHOW
        yield RELEASE
        yield DISCARD
    if ReasonCode.PERSON in codes:
        yield Action("{} ends a person's hold", ("edge", "queue", "release", "ID", *_REASON))
    if not codes or codes - NEEDS_DECISION:
        words = "once the cause is removed, {} tries again what was refused"
        yield Action(words, ("edge", "queue", "retry", "--destination", held.destination))
    if not codes or codes - {ReasonCode.CONFLICT, ReasonCode.MISMATCH}:
        yield Action("{} decides that it is not sent", ("edge", "queue", "cancel", "ID", *_REASON))


def unroutable(seen: Observed) -> Iterator[Alert]:
    for each in seen.held:
        if not each.destination:
            yield alert(
                "unroutable",
                "route",
                MAJOR,
                each.since,
                f"{counted(each.count, 'image')} that no route matches {'stays' if each.count == 1 else 'stay'} here",
                "safe on disk, but going nowhere until there is a [route]",
                _listed("unroutable"),
                Action("add the route"),
                CHECK,
                RELOAD,
                Action("then {}", ("edge", "instances", "release", "--unroutable", *_REASON)),
                Action("or {} for what is to go nowhere", ("edge", "instances", "discard", "ID", *_REASON)),
            )
