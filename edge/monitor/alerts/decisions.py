"""Alerts about what waits for a person's decision: each names the object, and the commands that decide."""

from __future__ import annotations

from collections.abc import Iterator

from edge.model import NEEDS_DECISION, ReasonCode
from edge.monitor.alerts.identity import order_differs
from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert, Held
from edge.store.undecided import RELEASES
from edge.text import amount, printable

#: Subject of the mismatches that are sent all the same: to acknowledge that alert settles them.
NOT_HELD = "not held"
_REASON = ("--reason", "...")
SHOW = Action("{} puts its versions side by side", ("edge", "instances", "show", "ID"))
RELEASE = Action("{} sends it where the routes say", ("edge", "instances", "release", "ID", *_REASON))
DISCARD = Action("{} refuses it", ("edge", "instances", "discard", "ID", *_REASON))


def _list_action(state: str) -> Action:
    return Action("{} names them", ("edge", "instances", "list", "--state", state))


def instances_in_conflict(seen: Observed) -> Iterator[Alert]:
    for each in seen.exceptions_in("conflict"):
        what = f"{amount(each.count, 'image')} received with an existing SOP Instance UID, but as a different object"
        actions = (_list_action("conflict"), SHOW, RELEASE, DISCARD)
        yield alert("instances", each.since, what, "both versions are kept", *actions)


def patient_mismatch(seen: Observed) -> Iterator[Alert]:
    found, names = seen.mismatches, Action("{} names both patients", _list_action("mismatch").command)
    if found.held:
        what = f"{amount(found.held, 'image')} held: the patient differs from the order's or the study's earlier images"
        means = "safe on disk, and not sent until a person decides"
        since = found.held_since or seen.at
        yield alert("held", since, what, means, names, SHOW, RELEASE, DISCARD)
    if found.studies:
        what = f"Images of more than one patient were received in {amount(found.studies, 'study')}"
        means = "they are sent unchanged, so an archive may show one patient's images as another's"
        since = found.studies_since or seen.at
        settle = Action(
            "once that is corrected at the archive, {} ends this alert",
            ("edge", "alerts", "ack", "ALERT", "--note", "..."),
        )
        yield alert(NOT_HELD, since, what, means, names, settle)
    yield from order_differs(seen)


def instances_quarantined(seen: Observed) -> Iterator[Alert]:
    for each in seen.exceptions_in("quarantined"):
        what = f"{amount(each.count, 'image')} could not be read or trusted, and not forwarded"
        means = "the bytes are kept, and the scanner got a failure status"
        show = Action("{} says why, and what it is", ("edge", "instances", "show", "ID"))
        export = Action("{} copies it", ("edge", "instances", "export", "ID", "DIR"))
        actions = (_list_action("quarantined"), show, export, RELEASE, DISCARD)
        yield alert("instances", each.since, what, means, *actions)


def quarantine_full(seen: Observed) -> Iterator[Alert]:
    if found := seen.live.unkept:
        some = f"{amount(found.count, 'object')} that cannot be read {'was' if found.count == 1 else 'were'}"
        sender = f'"{printable(found.sender)}" at {printable(found.address)}'
        yield alert(
            "quarantine",
            found.since,
            f"{some} not kept: quarantine is full for their sender, at last {sender}",
            "they were answered as failed and are at their sender; readable images are received as before",
            _list_action("quarantined"),
            Action("stop the system that sends them"),
            DISCARD,
            Action("or raise quarantine.most"),
        )


def work_held(seen: Observed) -> Iterator[Alert]:
    for each in seen.held:
        if each.destination:
            reason = printable(each.reason) or "no reason noted"
            yield alert(
                each.destination,
                each.since,
                f"{amount(each.count, 'image')} for {each.destination} held for a person to decide ({reason})",
                "safe on disk",
                *_list_decisions(each),
            )


def _list_decisions(held: Held) -> Iterator[Action]:
    """The commands that decide, for each reason for which something is held."""
    yield Action("{} says why", ("edge", "queue", "list", "--state", "held", "--destination", held.destination))
    codes = held.codes
    if ReasonCode.CONFLICT in codes or ReasonCode.MISMATCH in codes:
        yield SHOW
        yield RELEASE
        yield DISCARD
    for code in (each for each in RELEASES if each in codes):
        yield Action(f"{{}} {RELEASES[code]}", ("edge", "queue", "release", "ID", *_REASON))
    if not codes or codes - NEEDS_DECISION:
        words = "once the cause is removed, {} tries again what was refused"
        yield Action(words, ("edge", "queue", "retry", "--destination", held.destination))
    if not codes or codes - {ReasonCode.CONFLICT, ReasonCode.MISMATCH}:
        yield Action("{} decides that it is not sent", ("edge", "queue", "cancel", "ID", *_REASON))


def unroutable(seen: Observed) -> Iterator[Alert]:
    for each in seen.held:
        if not each.destination and (not each.codes or ReasonCode.UNROUTABLE in each.codes):
            yield alert(
                "route",
                each.since,
                f"{amount(each.count, 'image')} that no route matches {'stays' if each.count == 1 else 'stay'} here",
                "safe on disk, but not sent until a [route] matches",
                _list_action("unroutable"),
                Action("add the route"),
                CHECK,
                RELOAD,
                Action("{}", ("edge", "instances", "release", "--unroutable", *_REASON), follows=True),
                Action("or {} for what must not be sent", ("edge", "instances", "discard", "ID", *_REASON)),
            )
