"""The data of the overview's diagram: modalities, the gateway, destinations, and the images between them.

templates/pipeline.html draws it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.console.headline import destination_state, disk_state, drain_forecast
from edge.text import amount, from_iso, printable, span

#: Boxes on one side; one box stands for all others.
_MOST_BOXES = 7
#: Rates are averages over at most this time, and of at least the second.
_MAX_WINDOW_SECONDS, _MIN_WINDOW_SECONDS = 10.0, 0.5
#: ("from", AE title), ("to", destination), or ("in", "") for everything that is received.
MeterKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Box:
    """A modality or a destination in the diagram."""

    name: str
    level: str
    word: str
    below: str
    rate: float = 0.0  # images per second
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Diagram:
    """What the template draws."""

    sources: list[Box]
    destinations: list[Box]
    incoming: float  # images per second
    disk_level: str


class RateMeter:
    """Measures images per second from the counters of successive statuses."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[MeterKey, int]]] = deque(maxlen=64)

    def measure(self, status: Mapping[str, Any], now: float) -> dict[MeterKey, float]:
        """Return the rates by place; empty for the first status."""
        sums: dict[MeterKey, int] = {("to", name): each["sent"] for name, each in status["destinations"].items()}
        sums["in", ""] = status["instances"]["received"]
        for each in status["modalities"]:
            place = "from", each["ae_title"]
            sums[place] = sums.get(place, 0) + each["stored"]
        while self._seen and now - self._seen[0][0] > _MAX_WINDOW_SECONDS:
            self._seen.popleft()
        if not self._seen or now - self._seen[-1][0] >= _MIN_WINDOW_SECONDS:
            self._seen.append((now, sums))
        then, before = self._seen[0]
        if now - then < _MIN_WINDOW_SECONDS:
            return {}
        return {place: max(0.0, (n - before.get(place, n)) / (now - then)) for place, n in sums.items()}


def diagram_of(
    status: Mapping[str, Any],
    rates: Mapping[MeterKey, float],
    known: Sequence[str],
    marks: tuple[float, float],
    now: float,
) -> Diagram:
    """Return the diagram of a status. `known`: the configured modalities; `marks`: storage.warn and storage.refuse."""
    modalities = sorted(status["modalities"], key=lambda each: str(each["last_seen"]), reverse=True)
    seen = {each["name"] for each in modalities}
    sources = [_source(each, rates.get(("from", each["ae_title"]), 0.0), now) for each in modalities]
    sources += [Box(name, "idle", "", "not seen yet") for name in known if name not in seen]
    destinations = [
        _destination(name, each, rates.get(("to", name), 0.0))
        for name, each in status["destinations"].items()
        if each["state"] != "paused" or each["pending"] + each["deferred"] + each["held"]  # one that was removed
    ]
    return Diagram(_fold(sources), _fold(destinations), rates.get(("in", ""), 0.0), disk_state(status, *marks)[0])


def _source(modality: Mapping[str, Any], rate: float, now: float) -> Box:
    below = f"last seen {span(now - from_iso(modality['last_seen']))} ago"
    name = modality["name"] or printable(modality["ae_title"]) or modality["address"]
    if not modality["admitted"]:
        return Box(name, "warn", "refused", f"unknown, {below}", cut=True)
    if modality["silent"]:
        return Box(name, "warn", "silent", below, rate)
    equipment = " ".join(filter(None, (modality["manufacturer"], modality["model"])))
    return Box(name, "", printable(equipment), below, rate)


def _destination(name: str, destination: Mapping[str, Any], rate: float) -> Box:
    level, word = destination_state(destination)
    waiting = destination["pending"] + destination["deferred"]
    below = f"{destination['sent']:,} sent"
    if waiting:
        below = f"{amount(waiting, 'image')} · {drain_forecast(destination)}"
    if destination["held"]:
        below = f"{destination['held']:,} held · {below}"
    if destination["kind"] == "dicomweb":
        below = f"DICOMweb · {below}"
    return Box(name, level, word, below, rate, level in ("bad", "idle"))


def _fold(boxes: list[Box]) -> list[Box]:
    if len(boxes) <= _MOST_BOXES:
        return boxes
    rest = len(boxes) - _MOST_BOXES + 1
    return [*boxes[: _MOST_BOXES - 1], Box(f"{rest} others", "", "", "listed below")]
