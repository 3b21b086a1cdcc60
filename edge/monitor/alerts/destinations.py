"""Alerts about destinations: whether they answer, and whether they confirm what was sent."""

from __future__ import annotations

from collections.abc import Iterator

from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert, DestinationStatus
from edge.text import amount, printable, size, span


def destination_down(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        if each.configured and each.state == "down":
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            yield alert(
                each.name,
                each.since or seen.at,
                f"Destination {each.name} {'answers, but refuses images' if each.refuses else 'does not answer'}{why}",
                _describe_backlog(each),
                Action("try {}", ("edge", "echo", each.name)),
            )


def _describe_backlog(each: DestinationStatus) -> str:
    if not each.waiting:
        verb = "waits" if each.held == 1 else "wait"
        return f"only {amount(each.held, 'held image')} {verb} for it" if each.held else "nothing waits for it yet"
    one = each.waiting == 1
    return (
        f"{amount(each.waiting, 'image')} for it {'waits' if one else 'wait'} safely on disk and"
        f" {'is sent' if one else 'are sent'} automatically when it {'takes them' if each.refuses else 'answers'}"
    )


def destination_removed(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        left = each.waiting + each.held + each.sent - each.confirmed
        if not each.configured and left:
            yield alert(
                each.name,
                each.since or seen.at,
                f"Destination {each.name} is no longer configured, but {amount(left, 'image')} for it cannot be"
                " finished without it",
                "they are safe on disk",
                Action(f"put [destination.{each.name}] back"),
                CHECK,
                RELOAD,
                Action("if it has another name now, {}", ("edge", "destination", "rename", each.name, "NEW")),
                Action(
                    "if it is removed permanently, {}", ("edge", "destination", "retire", each.name, "--reason", "...")
                ),
            )


def backlog_old(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        oldest, limit = each.oldest_seconds, seen.threshold("backlog-old")
        if each.configured and each.state == "up" and oldest is not None and oldest > limit:
            rate = f"; it takes {size(each.rate)} a second" if each.rate else ""
            yield alert(
                each.name,
                seen.at - oldest + limit,
                f"The oldest of {amount(each.waiting, 'image')} for {each.name} has waited for {span(oldest)}",
                f"they are safe on disk and arrive late{rate}",
                Action("{} says what waits and why", ("edge", "queue", "list", "--destination", each.name)),
                Action("check whether the line to it is as fast as it should be", follows=True),
            )


def destination_unconfirmed(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        lag, limit = each.confirm_lag_seconds, seen.threshold("unconfirmed")
        if each.proves and lag is not None and lag > limit:
            yield alert(
                each.name,
                seen.at - lag + limit,
                f"{each.name} has not confirmed {amount(each.unconfirmed_count, 'image')} that it accepted, the oldest"
                f" for {span(lag)}",
                "they stay on disk until it does, and the disk fills",
                Action("{}", ("edge", "echo", each.name)),
                *(
                    Action("{} shows one at which each proof fails", ("edge", "queue", "show", str(delivery)))
                    for delivery in each.breaks_proof
                ),
                Action("ask its administrator whether it answers storage commitment or queries", follows=True),
            )
