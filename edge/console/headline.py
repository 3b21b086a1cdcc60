"""Are we all right? One sentence from the status, and what it means for patients' images. Pure.

It says nothing that the status does not: the same alerts, in fewer words, the worst first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.text import counted, size, span

GOOD, WARN, BAD, IDLE = "good", "warn", "bad", "idle"
LEVELS = {"critical": BAD, "major": WARN, "minor": IDLE}
#: One of these, and images do not reach where they should: as bad as it looks, whatever its severity.
_CUT = frozenset({"destination-down", "lost"})
_HEADLINES = {
    "storage-unhealthy": "Scanners are refused: the storage has failed.",
    "storage-refusing": "Scanners are refused: the disk is full.",
    "storage-filling": "The disk is filling up.",
    "destination-down": "{subject} does not answer.",
    "destination-removed": "Images for {subject} have nowhere to go.",
    "work-held": "Images for {subject} wait for a person's decision.",
    "unroutable": "Images wait here because no route matches them.",
    "lost": "Images are damaged or gone from this disk.",
    "configuration-rejected": "The new configuration has mistakes.",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """What the page says first. `since` is ISO 8601, or None."""

    level: str
    headline: str
    detail: str
    since: str | None = None


def level_of(alert: Mapping[str, Any]) -> str:
    return BAD if alert["kind"] in _CUT and alert["severity"] != "minor" else LEVELS.get(alert["severity"], WARN)


def verdict(status: Mapping[str, Any]) -> Headline:
    """The whole status in one sentence."""
    if status["state"] in ("starting", "draining", "down"):
        words = {"starting": "The gateway is starting.", "draining": "The gateway is stopping.", "down": "It is down."}
        return Headline(IDLE, words[status["state"]], "Images accepted before are safe on disk.", status.get("since"))
    alerts = sorted(status["alerts"], key=lambda each: (BAD, WARN, IDLE).index(level_of(each)))
    if not alerts or level_of(alerts[0]) == IDLE:
        return _well(status, len(alerts))
    worst = alerts[0]
    more = len([each for each in alerts if level_of(each) != IDLE]) - 1
    detail = _meaning(status, worst)
    if more > 0:
        detail += f" And {counted(more, 'more thing')} below."
    return Headline(level_of(worst), headline(worst), detail, worst["since"])


def headline(alert: Mapping[str, Any]) -> str:
    """An alert in a few words."""
    known = _HEADLINES.get(alert["kind"])
    if known:
        return _capital(known.format(subject=alert["subject"]))
    return f"{str(alert['what']).rstrip('.')}."


def _well(status: Mapping[str, Any], remarks: int) -> Headline:
    queue = status["queue"]
    going = queue["pending"] + queue["active"] + queue["deferred"]
    if going:
        detail = f"{counted(going, 'image')} ({size(queue['bytes'])}) {'is' if going == 1 else 'are'} on the way."
    elif status["instances"]["received"]:
        detail = "Everything received has been sent on."
    else:
        detail = "Ready to receive; nothing has come yet."
    if remarks:
        detail += f" {counted(remarks, 'remark')} below."
    return Headline(GOOD, "All is well.", detail, None)


def _meaning(status: Mapping[str, Any], alert: Mapping[str, Any]) -> str:
    """What it means for patients' images, in the numbers of now."""
    there = status["destinations"].get(alert["subject"])
    if alert["kind"] == "destination-down" and there:
        waiting = there["pending"] + there["deferred"]
        if not waiting:
            return "Nothing waits for it yet. Receiving and everything else goes on."
        return (
            f"{counted(waiting, 'image')} for it {'waits' if waiting == 1 else 'wait'} safely on this disk and will go"
            " by themselves when it answers. Receiving and everything else goes on."
        )
    return f"{_capital(alert['means'] or alert['what'])}."


def _capital(subject: str) -> str:
    return subject[:1].upper() + subject[1:]


# -- destinations and the disk -----------------------------------------------------------------------------------------


def of_destination(told: Mapping[str, Any]) -> tuple[str, str]:
    """(level, word) of one destination."""
    if told["state"] == "down":
        return BAD, "does not answer"
    if told["state"] == "paused":
        return IDLE, "paused"
    if told["held"]:
        return WARN, "some held"
    return GOOD, "up"


def of_disk(status: Mapping[str, Any], warn: float, refuse: float) -> tuple[str, str]:
    """(level, word) of the disk."""
    used = status["storage"]["used_fraction"]
    if used >= refuse or status["state"] == "refusing":
        return BAD, "refusing"
    if used >= warn:
        return WARN, "filling"
    return GOOD, "room"


def drains(told: Mapping[str, Any]) -> str:
    """When a destination's backlog will be gone, in words."""
    waiting = told["pending"] + told["deferred"]
    if not waiting:
        return "nothing waits"
    if told["state"] == "down":
        return "goes when it answers"
    left = told["drain_seconds"]
    return f"gone in about {span(left)}" if left else "on its way"
