"""The headline of the console: the worst alert of a status, and whether images are safe. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.text import amount, size, span

LEVEL_OF_SEVERITY = {"critical": "bad", "major": "warn", "minor": "idle"}
#: Images do not reach their destination, or are missing: bad at every severity but minor.
_ALWAYS_BAD = frozenset({"destination-down", "lost"})
_HEADLINES = {
    "storage-unhealthy": "Scanners are refused: the storage has failed.",
    "storage-refusing": "Scanners are refused: the disk is full.",
    "storage-filling": "The disk is filling up.",
    "destination-removed": "{subject} was removed, and images for it wait.",
    "work-held": "Images for {subject} wait for a person's decision.",
    "unroutable": "Images wait because no route matches them.",
    "lost": "Image files are missing or damaged.",
    "configuration-rejected": "The new configuration contains errors.",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """The first lines of the overview. `since` is ISO 8601, or None."""

    level: str  # good, warn, bad or idle
    text: str
    detail: str
    since: str | None = None


def level_of(alert: Mapping[str, Any]) -> str:
    """Return the level of an alert."""
    if alert["kind"] in _ALWAYS_BAD and alert["severity"] != "minor":
        return "bad"
    return LEVEL_OF_SEVERITY.get(alert["severity"], "warn")


def list_worst_first(alerts: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """List alerts by level."""
    return sorted(alerts, key=lambda each: ("bad", "warn", "idle").index(level_of(each)))


def summarize_status(status: Mapping[str, Any]) -> Headline:
    """Summarize the whole status in one headline."""
    if status["state"] in ("starting", "draining", "down"):
        text = f"The gateway is {'stopping' if status['state'] == 'draining' else status['state']}."
        return Headline("idle", text, "Images accepted before are safe on disk.", status.get("since"))
    alerts = list_worst_first(status["alerts"])
    serious = [each for each in alerts if level_of(each) != "idle"]
    if not serious:
        return Headline("good", "All is well.", _describe_traffic(status, len(alerts)))
    worst, more = serious[0], len(serious) - 1
    detail = _describe_risk(status, worst) + (f" {amount(more, 'more alert')} below." if more else "")
    return Headline(level_of(worst), alert_title(worst, status), detail, worst["since"])


def alert_title(alert: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """Return an alert of a status in a few words."""
    if alert["kind"] == "destination-down":
        return _capitalize(f"{alert['subject']} {_describe_outage(status['destinations'].get(alert['subject'], {}))}.")
    known = _HEADLINES.get(alert["kind"])
    if known:
        return _capitalize(known.format(subject=alert["subject"]))
    return f"{str(alert['what']).rstrip('.')}."


def _describe_traffic(status: Mapping[str, Any], notices: int) -> str:
    queue = status["queue"]
    waiting = queue["pending"] + queue["active"] + queue["deferred"]
    if waiting:
        text = f"{amount(waiting, 'image')} ({size(queue['bytes'])}) {'is' if waiting == 1 else 'are'} being sent."
    elif status["instances"]["received"]:
        text = "Everything received has been sent."
    else:
        text = "Ready to receive; no image has been received yet."
    return text + (f" {amount(notices, 'notice')} below." if notices else "")


def _describe_risk(status: Mapping[str, Any], alert: Mapping[str, Any]) -> str:
    """Describe what an alert means for patients' images, with current numbers."""
    destination = status["destinations"].get(alert["subject"])
    if alert["kind"] != "destination-down" or not destination:
        return f"{_capitalize(alert['means'] or alert['what'])}."
    waiting = destination["pending"] + destination["deferred"]
    if not waiting:
        return "No image waits for it. Receiving and other destinations are not affected."
    wait, be = ("waits", "is") if waiting == 1 else ("wait", "are")
    when = describe_return(destination)
    return (
        f"{amount(waiting, 'image')} for it {wait} safely on this disk and {be} sent"
        f" automatically {when}. Receiving and other destinations are not affected."
    )


def _describe_outage(destination: Mapping[str, Any]) -> str:
    return "answers, but refuses images" if destination.get("refuses") else "does not answer"


def describe_return(destination: Mapping[str, Any]) -> str:
    """Describe when a destination that is down is sent what waits."""
    return "when it takes them" if destination.get("refuses") else "when it answers"


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- destinations and the disk -----------------------------------------------------------------------------------------


def destination_state(destination: Mapping[str, Any]) -> tuple[str, str]:
    """Return (level, word) of one destination."""
    if destination["state"] == "down":
        return "bad", "refuses images" if destination.get("refuses") else "does not answer"
    if destination["state"] == "paused":
        return "idle", "removed"
    if destination["held"]:
        return "warn", "some held"
    if is_untried(destination):
        return "idle", "not tried yet"
    return "good", "up"


def is_untried(destination: Mapping[str, Any]) -> bool:
    """Whether nothing was ever sent to a destination: nobody knows whether it answers."""
    return not (destination["last_success"] or destination["last_error"] or destination["sent"])


def fill_forecast(storage: Mapping[str, Any], refuse: float) -> str:
    """Describe when the disk will be full."""
    left = storage["full_in_seconds"]
    if storage["used_fraction"] >= refuse or (left is not None and left < 1):
        return "full: images are refused"
    return "not filling up" if left is None else f"full in about {span(left)} at this rate"


def disk_state(status: Mapping[str, Any], warn: float, refuse: float) -> tuple[str, str]:
    """Return (level, word) of the disk; `warn` and `refuse` are those of [storage]."""
    used = status["storage"]["used_fraction"]
    if used >= refuse or status["state"] == "refusing":
        return "bad", "refusing"
    if used >= warn:
        return "warn", "filling"
    return "good", "OK"


def drain_forecast(destination: Mapping[str, Any]) -> str:
    """Describe when the backlog of a destination will be sent."""
    if not destination["pending"] + destination["deferred"]:
        return "no backlog"
    if destination["state"] == "down":
        return f"sent {describe_return(destination)}"
    if destination["state"] == "paused":
        return "not sent: it is not configured"
    left = destination["drain_seconds"]
    return f"empty in about {span(left)}" if left and left >= 1 else "being sent"
