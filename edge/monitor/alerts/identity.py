"""Alerts about HL7 messages, and about whose images and orders are. No patient is named here: commands name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edge.config.alarms import MAJOR
from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert
from edge.store.identity_findings import OpenFindings
from edge.text import amount, moment_text, span

#: Subject of the studies that differ from their order and are sent all the same.
NOT_HELD_ORDER = "order"
ACKNOWLEDGE = Action("{} ends this alert", ("edge", "alerts", "ack", "ALERT", "--note", "..."), follows=True)


def hl7_parked(seen: Observed) -> Iterator[Alert]:
    parked = seen.hl7.parked
    if parked.count:
        behind = f", {parked.behind:,} of them behind another of the same patient" if parked.behind else ""
        yield alert(
            "messages",
            parked.since or seen.at,
            f"{amount(parked.count, 'HL7 message')} parked{behind}",
            "kept and not applied, so copies of these patients' images leave with the former facts",
            Action("{} says why", ("edge", "hl7", "list", "--state", "parked")),
            Action("{} applies one again", ("edge", "hl7", "replay", "ID")),
            Action("{} decides that it is not applied", ("edge", "hl7", "discard", "ID", "--reason", "...")),
        )


def feed_silent(seen: Observed) -> Iterator[Alert]:
    for each in seen.hl7.feeds:
        if each.missed_at is not None:
            last = f", last received {moment_text(each.last_at)}" if each.last_at else ""
            yield alert(
                each.name,
                each.missed_at,
                f"Feed {each.name} has not sent today though it always does ({each.usual}{last})",
                "orders, names and merges of today may be missing; images are received as before",
                Action(f"check the system behind [feed.{each.name}] and its connection"),
            )


def relay_held(seen: Observed) -> Iterator[Alert]:
    for each in seen.hl7.relays:
        if each.held:
            yield alert(
                each.relay,
                each.held_since or seen.at,
                f"{amount(each.held, 'HL7 message')} refused by relay {each.relay}",
                "kept here; later messages of these patients wait behind, others go on",
                Action("{} has the receiver's words", ("edge", "hl7", "list", "--relay")),
                Action("{} sends one again", ("edge", "hl7", "release", "ID", "--reason", "...")),
                Action("{} decides that it does not go", ("edge", "hl7", "cancel", "ID", "--reason", "...")),
            )


def relay_stuck(seen: Observed) -> Iterator[Alert]:
    limit = seen.threshold("relay-stuck")
    for each in seen.hl7.relays:
        waited = seen.at - (each.waiting_since or seen.at)
        if each.waiting and waited > limit:
            yield alert(
                each.relay,
                seen.at - waited + limit,
                f"Relay {each.relay} takes no HL7: {amount(each.waiting, 'message')} waiting, the oldest for"
                f" {span(waited)}",
                "kept here, and sent in order when it answers",
                Action("{} says what it answers", ("edge", "hl7", "list", "--relay")),
                Action(f"check host and port in [relay.{each.relay}]"),
                CHECK,
                RELOAD,
            )


def order_missing(seen: Observed) -> Iterator[Alert]:
    if seen.identity.missing:
        some = amount(seen.identity.missing, "study")
        yield alert(
            "studies",
            seen.identity.missing_since or seen.at,
            f"{some} without an order for longer than identity.orphan_after",
            "the images were sent as the routes say; whose they are, only their own header says",
            Action("{} names them", ("edge", "orders", "missing")),
            Action("a late order ends it by itself"),
            ACKNOWLEDGE,
        )


def order_differs(seen: Observed) -> Iterator[Alert]:
    """Images that are not held although their patient differs from the order's."""
    if seen.identity.differing:
        yield alert(
            NOT_HELD_ORDER,
            seen.identity.differing_since or seen.at,
            f"The patient differs from the order's in {amount(seen.identity.differing, 'study')}",
            "they are sent unchanged, so an archive may show one patient's images as another's",
            Action("{} names both", ("edge", "orders", "differing")),
            Action("once that is corrected at the archive, {} ends this alert", ACKNOWLEDGE.command),
            severity=MAJOR,
        )


def _finding(what: str, means: str, *actions: Action) -> Callable[[OpenFindings], Alert]:
    def make(found: OpenFindings) -> Alert:
        times = amount(found.count, "time") if found.count > 1 else "once"
        said = what.format(feed=found.feed, times=times)
        kind = found.kind
        listing = Action("{} names the messages", ("edge", "hl7", "list", "--note", kind))
        return alert(found.feed, found.since, said, means, listing, *actions, ACKNOWLEDGE)

    return make


_FINDINGS = {
    "merged-id-used": _finding(
        "Feed {feed} has used a patient number that was merged into another ({times})",
        "nothing was changed: the number is used again, or its sender has old data",
        Action("ask its administrator which it is"),
    ),
    "accession-reused": _finding(
        "Feed {feed} has used an accession number for another order ({times})",
        "both orders are kept, and images are matched by their patient",
        Action("ask its administrator which order is right"),
    ),
    "merge-reversed": _finding(
        "Feed {feed} has merged two patients in both directions ({times})",
        "the latest direction counts",
        Action("ask its administrator which number stays"),
    ),
    "hl7-control-id-reused": _finding(
        "Feed {feed} has used a control ID for other messages",
        "each was applied; a message that is lost could not be recognized",
        Action("have its administrator make MSH-10 unique"),
    ),
    "charset-wrong": _finding(
        "Feed {feed} declares a character set that is not known or does not fit",
        "numbers are applied; names are kept in doubt, and are not written into images",
        Action("set charset in its [feed] table"),
        CHECK,
        RELOAD,
        Action("{} reads each again", ("edge", "hl7", "replay", "ID"), follows=True),
    ),
}


def finding_rule(kind: str) -> Callable[[Observed], Iterator[Alert]]:
    """The rule of one kind of finding: an alert a feed."""

    def find(seen: Observed) -> Iterator[Alert]:
        for each in seen.hl7.findings:
            if each.kind == kind:
                yield _FINDINGS[kind](each)

    return find


FINDING_KINDS = tuple(_FINDINGS)
