"""Alerts about destinations: whether they answer, whether they prove what they took."""

from __future__ import annotations

from collections.abc import Iterator

from edge.config.alarms import MAJOR
from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert, Destination
from edge.text import counted, printable, size, span


def down(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        if each.configured and each.state == "down":
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            yield alert(
                "destination-down",
                each.name,
                MAJOR,
                each.since or seen.now,
                f"Destination {each.name} does not answer{why}",
                _what_waits(each),
                Action("try {}", ("edge", "echo", each.name)),
            )


def _what_waits(each: Destination) -> str:
    if not each.waiting:
        return "nothing waits for it yet"
    one = each.waiting == 1
    return (
        f"{counted(each.waiting, 'image')} for it {'waits' if one else 'wait'} safely on disk and"
        f" {'goes by itself' if one else 'go by themselves'} when it answers"
    )


def removed(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        left = each.waiting + each.held + each.sent - each.confirmed
        if not each.configured and left:
            yield alert(
                "destination-removed",
                each.name,
                MAJOR,
                each.since or seen.now,
                f"Destination {each.name} is no longer configured, but {counted(left, 'image')} for it cannot be"
                " finished without it",
                "they are safe on disk",
                Action(f"put [destination.{each.name}] back"),
                CHECK,
                RELOAD,
                Action("if it has another name now, {}", ("edge", "destination", "rename", each.name, "NEW")),
                Action("if it is gone, {}", ("edge", "destination", "retire", each.name, "--reason", "...")),
            )


def backlog_old(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        oldest, limit = each.oldest_seconds, seen.threshold("backlog-old")
        if each.configured and each.state == "up" and oldest is not None and oldest > limit:
            rate = f"; it takes {size(each.rate)} a second" if each.rate else ""
            yield alert(
                "backlog-old",
                each.name,
                MAJOR,
                seen.now - oldest + limit,
                f"The oldest of {counted(each.waiting, 'image')} for {each.name} has waited for {span(oldest)}",
                f"they are safe on disk and arrive late{rate}",
                Action("{} says what waits and why", ("edge", "queue", "list", "--destination", each.name)),
                Action("then see whether the line to it is as fast as it should be"),
            )


def unconfirmed(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        lag, limit = each.confirm_lag_seconds, seen.threshold("unconfirmed")
        if each.proves and lag is not None and lag > limit:
            yield alert(
                "unconfirmed",
                each.name,
                MAJOR,
                seen.now - lag + limit,
                f"{each.name} has not proved {counted(each.unconfirmed, 'image')} that it took, the oldest for"
                f" {span(lag)}",
                "they stay on disk until it does, and the disk fills",
                Action("{}", ("edge", "echo", each.name)),
                *(
                    Action("{} shows one with which each exchange ends", ("edge", "queue", "show", str(delivery)))
                    for delivery in each.breaks_proof
                ),
                Action("then ask its administrator whether it answers storage commitment or queries"),
            )
