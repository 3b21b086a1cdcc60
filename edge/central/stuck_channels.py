"""Channels of the centre that deliver nothing, or refuse messages permanently: each is an open incident of the centre.

Its notice goes to every other channel. It closes once nothing is parked and nothing that waits has failed.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge.config.alarms import ALERT_KINDS, MINOR
from edge.store import outbox
from edge.store.central import incidents
from edge.store.engine import EngineTransaction
from edge.store.outbox import Backlog
from edge.text import amount, printable, span

KIND = "channel-stuck"
_MEANS = "Sites report as before, but this channel brings no notice of silent sites or escalations to anybody."


def watch_channels(conn: EngineTransaction, now: float) -> Mapping[str, Backlog]:
    """Open and close the incidents; what waits and what is parked, by channel."""
    found = outbox.backlogs(conn)
    open_now = incidents.list_open_subjects(conn, KIND)
    for channel, backlog in found.items():
        if channel not in open_now and (text := reason(channel, backlog, now)):
            todo = (
                "`edge central notify list` says why. After fixing the cause:"
                f" `edge central notify retry {channel}`, or `discard` in its place."
            )
            columns = {"subject": channel, "severity": MINOR, "text": text, "means": _MEANS, "todo": todo}
            incidents.open_incident(conn, KIND, opened_at=now, **columns)
    for channel, incident in open_now.items():
        rest = found.get(channel)
        if rest is None or not (rest.parked or rest.last_error):
            incidents.close(conn, incident, now, "The channel has no parked and no failed message any more.")
    return found


def reason(channel: str, backlog: Backlog, now: float) -> str:
    """Why a channel is stuck; empty where it is not."""
    if backlog.parked:
        was = "was" if backlog.parked == 1 else "were"
        return f"{amount(backlog.parked, 'message')} to {channel} {was} refused permanently"
    waited = now - (now if backlog.oldest_at is None else backlog.oldest_at)
    if waited <= (ALERT_KINDS[KIND].threshold):
        return ""
    why = f" ({printable(backlog.last_error)})" if backlog.last_error else ""
    return f"{amount(backlog.count, 'message')} to {channel} cannot be delivered, the oldest for {span(waited)}{why}"
