"""Carries out what a person does about an alert (edge.console.alert_actions): commands of the gateway, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from edge.console.access import Access
from edge.console.alert_actions import AlertAction, actions_of
from edge.errors import EdgeError
from edge.model import DeliveryState, InstanceState
from edge.store import deliveries, queries
from edge.text import amount
from edge.web.guard import Visitor

#: Deliveries or instances in one command: scanners wait while one runs.
_BATCH = 500
#: Files that are fetched again in one request; more by `edge instances repair`.
_MOST_REPAIRS = 50
_WAITING = (DeliveryState.HELD, DeliveryState.DEFERRED)


def act_on_alert(access: Access, visitor: Visitor, number: int, name: str, reason: str) -> str:
    """Carry out one action of an open alert. Returns what has changed, in words. Raises EdgeError."""
    alert = next((each for each in access.status()["alerts"] if each["id"] == number), None)
    if alert is None:
        raise EdgeError("This alert is over.")
    action = next((each for each in actions_of(alert) if each.name == name), None)
    if action is None:
        raise EdgeError("Choose an action.")
    if not visitor.may(action.role):
        raise EdgeError(f"This action requires the role {action.role.name.lower()}.")
    if not reason:
        raise EdgeError("Give a reason: the ledger records it.")
    fields = {"who": visitor.name, "reason": reason}
    return f"{_ACTS[action.name](access, alert, fields)} ({action.label.lower()})."


def offered_to(visitor: Visitor, alert: Mapping[str, Any]) -> tuple[AlertAction, ...]:
    """List the actions of an alert that a visitor may carry out."""
    return tuple(each for each in actions_of(alert) if visitor.may(each.role)) if alert["id"] else ()


def _try(access: Access, alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    access.command("destination-try", {"name": alert["subject"], **fields})
    return f"{alert['subject']} is tried at once"


def _retry(access: Access, alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    with access.db.reading() as conn:
        found = [each.id for each in queries.deliveries(conn, _WAITING, alert["subject"], None, None)]
    changed = sum(answer["moved"] for answer in _in_batches(access, "queue-retry", found, fields))
    return f"{amount(changed, 'image')} for {alert['subject']} queued to be sent"


def _route(access: Access, _alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    with access.db.reading() as conn:
        found = [each.instance_id for each in queries.deliveries(conn, _WAITING, deliveries.UNROUTABLE, None, None)]
    answers = _in_batches(access, "instance-release", found, {**fields, "named": False})
    changed = sum(each["done"] for answer in answers for each in answer["decided"])
    return f"{amount(changed, 'image')} of {len(found):,} sent by the routes"


def _repair(access: Access, _alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    with access.db.reading() as conn:
        found = [each.id for each in queries.list_exceptions(conn, InstanceState.LOST, _MOST_REPAIRS)]
    repaired = access.command("repair", {"ids": found, **fields})["mended"]  # language: a JSON key
    return f"{amount(sum(each['whole'] for each in repaired), 'file')} of {len(found)} whole again"


def _resend(access: Access, alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    moved = access.command("notify-retry", {"channel": alert["subject"], **fields})["moved"]
    return f"{amount(moved, 'message')} of {alert['subject']} queued to be sent"


def _retire(access: Access, alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    answer = access.command("destination-retire", {"name": alert["subject"], **fields})
    return f"{amount(answer['ended'], 'delivery')} for {alert['subject']} cancelled"


def _in_batches(
    access: Access, command: str, ids: Iterable[int], fields: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    left = iter(dict.fromkeys(ids))
    while batch := list(islice(left, _BATCH)):
        yield access.command(command, {"ids": batch, **fields})


_ACTS: Mapping[str, Callable[[Access, Mapping[str, Any], Mapping[str, Any]], str]] = {
    "try": _try,
    "retry": _retry,
    "retry-held": _retry,
    "route": _route,
    "repair": _repair,
    "resend": _resend,
    "retire": _retire,
}
