"""The forecast when the waiting deliveries of a study will be sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edge.console.headline import describe_return
from edge.model import DeliveryState
from edge.store.waiting import WaitingGroup
from edge.text import span

#: A forecast is never shorter.
_SHORTEST = 10.0


def bytes_ahead(groups: Iterable[WaitingGroup]) -> dict[int, int]:
    """Return {first delivery of a group: bytes that its destination is sent until the group is sent}."""
    total: dict[str, int] = {}
    found = {}
    for each in sorted((g for g in groups if g.state is not DeliveryState.HELD), key=lambda g: g.turn):
        total[each.destination] = total.get(each.destination, 0) + each.bytes
        found[each.first_id] = total[each.destination]
    return found


def forecast(group: WaitingGroup, destination: Mapping[str, Any] | None, ahead: int, now: float) -> str:
    """Describe when a group will be sent. `destination`: of the status; `ahead`: bytes until it is sent."""
    if group.state is DeliveryState.HELD:
        return "needs a decision"
    if destination is None:
        return "not while its destination is not configured" if group.destination else "when its study's images come"
    if destination["state"] == "down":
        return describe_return(destination)
    if destination["state"] == "paused":
        return "not while its destination is not configured"
    if group.not_before is not None and group.not_before > now:
        return f"tried again in {span(max(group.not_before - now, 1))}"
    rate = destination.get("rate_bytes_per_second")
    if not rate:
        return "not known yet"
    return f"in about {span(max(ahead / rate, _SHORTEST))}"
