"""The statements that change the state of a delivery, made from edge.model.TRANSITIONS; no other module has one.

Promise: a statement changes only rows in the sources of its transition, and writes, keeps or clears the reason as that
says. A change that TRANSITIONS does not have raises LookupError when its module is imported.
"""

from __future__ import annotations

import json
from typing import Any

from edge.model import TRANSITIONS, DeliveryState, Reason, ReasonRule, StateChange

_NEW_REASON = "reason = '', reason_code = :reason_code, reason_parameters = :reason_parameters, peer_text = :peer_text"
_REASON = {
    ReasonRule.REQUIRED: [_NEW_REASON],
    ReasonRule.OPTIONAL: [_NEW_REASON],
    ReasonRule.CLEARED: ["reason = '', reason_code = '', reason_parameters = '', peer_text = ''"],
    ReasonRule.KEPT: [],
}


def change_of(event: str, target: DeliveryState) -> StateChange:
    """The row of TRANSITIONS. Raises LookupError where there is none."""
    found = [each for each in TRANSITIONS if (each.event, each.target) == (event, target)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} transitions to {target.value} are called {event!r}")
    return found[0]


def update_statement(event: str, target: DeliveryState, also: str = "", where: str = "id = :id") -> str:
    """The UPDATE of one transition, with `also` set and narrowed by `where`.

    Parameters: those of `also` and `where`, those of `reason_values` where a reason is written, and `not_before`
    where the target is deferred and `also` does not set it.
    """
    found = change_of(event, target)
    sets = [f"state = '{target.value}'", *_REASON[found.reason]]
    if DeliveryState.ACTIVE in found.sources:
        sets.append("lease_until = NULL")
    if "not_before" not in also and target is not DeliveryState.ACTIVE:
        sets.append(f"not_before = {':not_before' if target is DeliveryState.DEFERRED else 'NULL'}")
    states = ", ".join(f"'{each.value}'" for each in found.sources if each is not None)
    is_source = f"state IN ({states})" if "," in states else f"state = {states}"
    return f"UPDATE delivery SET {', '.join(filter(None, [*sets, also]))} WHERE {is_source} AND {where}"


_AGAIN = ("priority", "state", "reason_code", "reason_parameters", "queued_at")
_COLUMNS = ("instance_id", "destination", "kind_id", "bytes", "route", *_AGAIN)


def enqueue_statement(target: DeliveryState) -> str:
    """The INSERT of a delivery; the row of an instance that had one begins again."""
    change_of("enqueue", target)
    values = ", ".join(f"'{target.value}'" if each == "state" else f":{each}" for each in _COLUMNS)
    return (
        f"INSERT INTO delivery ({', '.join(_COLUMNS)}) VALUES ({values}) ON CONFLICT (instance_id, destination)"
        f" DO UPDATE SET {', '.join(f'{each} = excluded.{each}' for each in _AGAIN)}, reason = '', peer_text = '',"
        " attempts = 0, denials = 0, breaks = 0, broke_at = NULL, transaction_id = NULL, cancelled_at = NULL,"
        " lease_until = NULL, not_before = NULL"
    )


def reason_values(reason: Reason, peer_text: str = "") -> dict[str, Any]:
    """The parameters with which a statement writes a reason. `peer_text`: another system's own words."""
    return {
        "reason_code": reason.code.value,
        "reason_parameters": parameters_json(reason),
        "peer_text": peer_text,
    }


def parameters_json(reason: Reason) -> str:
    """The parameters as they are stored: canonical, and empty where there are none."""
    if not reason.parameters:
        return ""
    return json.dumps(reason.parameters, sort_keys=True, separators=(",", ":"))
