"""Alerts about what waits for a person's decision: each names the object, and what decides about it."""

from __future__ import annotations

from collections.abc import Iterator

from edge.config.alarms import MAJOR, MINOR
from edge.model import NEEDS_DECISION, ReasonCode
from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert, Held
from edge.text import counted, printable

#: Subject of the mismatches that go on: whoever acknowledges that alert settles them.
NOT_HELD = "not held"
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


def patient_mismatch(seen: Observed) -> Iterator[Alert]:
    found, names = seen.mismatches, Action("{} names both patients", _listed("mismatch").command)
    if found.held:
        what = f"{counted(found.held, 'image')} held: another patient than the images before in the same study"
        means = "safe on disk, and not sent before a person has decided"
        since = found.held_since or seen.now
        yield alert("patient-mismatch", "held", MAJOR, since, what, means, names, SHOW, RELEASE, DISCARD)
    if found.studies:
        what = f"Images of more than one patient have come in {counted(found.studies, 'study')}"
        means = "they go on as they came, so an archive may show one patient's images as another's"
        since = found.studies_since or seen.now
        settle = Action(
            "once that is corrected at the archive, {} ends this", ("edge", "alerts", "ack", "ALERT", "--note", "...")
        )
        yield alert("patient-mismatch", NOT_HELD, MAJOR, since, what, means, names, settle)


def quarantine(seen: Observed) -> Iterator[Alert]:
    for each in seen.troubles:
        if each.state == "quarantined":
            what = f"{counted(each.count, 'image')} could not be read or trusted and went nowhere"
            means = "the bytes are kept, and the scanner was answered that it failed"
            show = Action("{} says why, and what it is", ("edge", "instances", "show", "ID"))
            export = Action("{} copies it", ("edge", "instances", "export", "ID", "DIR"))
            actions = (_listed("quarantined"), show, export, RELEASE, DISCARD)
            yield alert("quarantine", "instances", MINOR, each.since, what, means, *actions)


def quarantine_full(seen: Observed) -> Iterator[Alert]:
    if found := seen.unkept:
        some = f"{counted(found.count, 'object')} that cannot be read {'was' if found.count == 1 else 'were'}"
        sender = f'"{printable(found.sender)}" at {printable(found.address)}'
        yield alert(
            "quarantine-full",
            "quarantine",
            MAJOR,
            found.since,
            f"{some} not kept: quarantine is full for their sender, at last {sender}",
            "they were answered as failed and are at their sender; what can be read is taken as ever",
            _listed("quarantined"),
            Action("end what sends them"),
            DISCARD,
            Action("or raise quarantine.most"),
        )


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
        if not each.destination and (not each.codes or ReasonCode.UNROUTABLE in each.codes):
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
