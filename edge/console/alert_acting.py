"""Carries out what a person does about an alert (edge.console.alert_actions): commands of the gateway, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from edge.console.access import Access
from edge.console.alert_actions import AlertAction, actions_of
from edge.errors import EdgeError
from edge.model import DeliveryState, InstanceState
from edge.monitor.alerts.services import STEPS_SUBJECT
from edge.store import deliveries, hl7_messages, performed_steps, queries, relays
from edge.store.hl7_messages import ListedMessage, MessageState
from edge.store.listing import ListPart
from edge.text import amount
from edge.web.guard import Visitor

#: Deliveries or instances in one command: scanners wait while one runs.
_BATCH = 500
#: Files that are fetched again in one request; more by `edge verify --repair`.
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


def _replay(access: Access, _alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    found = _list_parked(access)
    for each in reversed(found):
        if each.id in {one.id for one in _list_parked(access)}:  # one that is applied releases those behind it
            _replay_message(access, each, fields)
    left = len({each.id for each in found} & {each.id for each in _list_parked(access)})
    rest = f", {left:,} still parked" if left else ""
    return f"{amount(len(found) - left, 'message')} applied{rest}"


def _list_parked(access: Access) -> list[ListedMessage]:
    with access.db.reading() as conn:
        return hl7_messages.list_messages(conn, state=MessageState.PARKED.value).read(ListPart(_BATCH))


def _reread(access: Access, alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    with access.db.reading() as conn:
        found = hl7_messages.list_messages(conn, note=alert["kind"], feed=alert["subject"]).read(ListPart(_BATCH))
    for each in reversed(found):
        _replay_message(access, each, fields)
    return f"{amount(len(found), 'message')} read again"


def _replay_message(access: Access, message: ListedMessage, fields: Mapping[str, Any]) -> None:
    """Replay a message in the character set that its feed has now."""
    access.command("hl7-replay", {"id": message.id, "charsets": access.config().feed_charsets, **fields})


def _relay_again(access: Access, alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    with access.db.reading() as conn:
        found = relays.list_held_messages(conn, alert["subject"], _BATCH)
    moved = sum(
        access.command("hl7-release", {"id": each, "relay": alert["subject"], **fields})["moved"] for each in found
    )
    return f"{amount(moved, 'message')} for {alert['subject']} queued to be sent"


def _relay_now(access: Access, alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    moved = access.command("hl7-try-relay", {"name": alert["subject"], **fields})["moved"]
    return f"{amount(moved, 'message')} for {alert['subject']} due at once"


def _steps_again(access: Access, alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    name = str(alert["subject"]).removeprefix(STEPS_SUBJECT)
    with access.db.reading() as conn:
        found = [each.id for each in performed_steps.list_steps(conn, only_open=True).read(ListPart(_BATCH))]
    moved = access.command("mpps-retry", {"ids": found, "destination": name, **fields})["moved"]
    return f"{amount(moved, 'message')} for {name} queued to be sent"


def _ask_now(access: Access, _alert: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    source = access.config().worklist.from_
    access.command("worklist-refresh", {"source": source, **fields})
    return f"{source} is asked at once"


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
    "replay": _replay,
    "reread": _reread,
    "relay-again": _relay_again,
    "relay-now": _relay_now,
    "steps-again": _steps_again,
    "ask-now": _ask_now,
}
