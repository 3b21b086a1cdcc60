"""The path as a picture: modalities, the gateway, destinations, and what flows between them. Pure: SVG as text."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from edge.console.headline import BAD, IDLE, WARN, drains, of_destination, of_disk
from edge.text import counted, from_iso, percent, printable, size, span

ROW, BOX, WIDTH = 72, 56, 1080
LEFT, LEFT_END = 4, 250
GATE, GATE_END = 420, 650
RIGHT, RIGHT_END = 812, 1076
#: More on a side are told as one.
MOST = 7
#: Rates are measured over at most so many seconds.
WINDOW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class End:
    """A box at one end of the path."""

    name: str
    level: str
    word: str
    below: str
    rate: float = 0.0  # images a second now
    cut: bool = False


#: ("from", AE title), ("to", destination), or ("in", "") for all that is received.
Where = tuple[str, str]


class Flow:
    """Images a second, from looking again and again at sums that only grow."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[Where, int]]] = deque(maxlen=64)

    def rates(self, status: Mapping[str, Any], now: float) -> dict[Where, float]:
        """By place. Empty at the first look."""
        sums: dict[Where, int] = {("to", name): each["sent"] for name, each in status["destinations"].items()}
        sums |= {("from", each["ae_title"]): 0 for each in status["modalities"]}
        for each in status["modalities"]:
            sums["from", each["ae_title"]] += each["stored"]
        sums["in", ""] = status["instances"]["received"]
        while self._seen and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        if not self._seen or now - self._seen[-1][0] >= 0.5:
            self._seen.append((now, sums))
        then, before = self._seen[0]
        if now - then < 0.5:
            return {}
        return {name: max(0.0, (n - before.get(name, n)) / (now - then)) for name, n in sums.items()}


def sources(status: Mapping[str, Any], rates: Mapping[Where, float], known: Sequence[str], now: float) -> list[End]:
    """The modalities, those that were heard last first; then those that are configured and never called."""
    told = sorted(status["modalities"], key=lambda each: str(each["last_seen"]), reverse=True)
    heard_of = {each["name"] for each in told}
    silent = [End(name, IDLE, "", "nothing heard yet") for name in known if name not in heard_of]
    return [_source(each, rates.get(("from", each["ae_title"]), 0.0), now) for each in told] + silent


def _source(told: Mapping[str, Any], rate: float, now: float) -> End:
    heard = f"heard {span(now - from_iso(told['last_seen']))} ago"
    name = told["name"] or printable(told["ae_title"])
    if not told["admitted"]:
        return End(name, WARN, "refused", f"unknown, {heard}", cut=True)
    if told["silent"]:
        return End(name, WARN, "silent", heard, rate)
    what = " ".join(filter(None, (told["manufacturer"], told["model"])))
    return End(name, "", _cut(printable(what), 24), heard, rate)


def targets(status: Mapping[str, Any], rates: Mapping[Where, float]) -> list[End]:
    """The destinations, in the order of the configuration."""
    ends = []
    for name, told in status["destinations"].items():
        level, word = of_destination(told)
        waiting = told["pending"] + told["deferred"]
        below = f"{counted(waiting, 'image')} · {drains(told)}" if waiting else f"{told['sent']:,} sent"
        if told["held"]:
            below = f"{told['held']:,} held · {below}"
        ends.append(End(name, level, word, below, rates.get(("to", name), 0.0), level in (BAD, IDLE)))
    return ends


def draw(
    status: Mapping[str, Any], left: Sequence[End], right: Sequence[End], incoming: float, marks: tuple[float, float]
) -> Markup:
    """The picture. `marks`: storage.warn and storage.refuse."""
    left, right = _shortened(left, "others"), _shortened(right, "others")
    rows = max(len(left), len(right), 3)
    height = rows * ROW + 12
    middle = height / 2
    refusing = status["state"] == "refusing"
    parts = []
    for end, y in zip(left, _heights(len(left), height), strict=True):
        parts.append(_pipe(LEFT_END, y, GATE, _spread(y, middle), end.rate, refusing or end.cut))
        parts.append(_box(LEFT, LEFT_END, y, end))
    for end, y in zip(right, _heights(len(right), height), strict=True):
        parts.append(_pipe(GATE_END, _spread(y, middle), RIGHT, y, end.rate, end.cut))
        if end.rate >= 0.05 and not end.cut:
            parts.append(_text("sub", (GATE_END + RIGHT) / 2, (y + _spread(y, middle)) / 2 - 9, per_minute(end.rate)))
        parts.append(_box(RIGHT, RIGHT_END, y, end))
    parts.append(_gate(status, middle, incoming, marks))
    label = _in_words(status, left, right)
    return Markup('<svg class="path" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, label, Markup("".join(parts))
    )


def per_minute(rate: float) -> str:
    """Images a second, as people count them."""
    return f"{rate * 60:,.0f}/min" if rate * 60 >= 1 else "<1/min"


def _shortened(ends: Sequence[End], word: str) -> list[End]:
    if len(ends) <= MOST:
        return list(ends)
    rest = ends[MOST - 1 :]
    return [*ends[: MOST - 1], End(f"{len(rest)} {word}", "", "", "listed below")]


def _heights(n: int, height: float) -> list[float]:
    top = (height - n * ROW) / 2 + ROW / 2
    return [top + i * ROW for i in range(n)]


def _spread(y: float, middle: float) -> float:
    """Where a pipe meets the gateway: near its own height, within the box."""
    return middle + max(-62.0, min(62.0, (y - middle) * 0.45))


def _pipe(x1: float, y1: float, x2: float, y2: float, rate: float, cut: bool) -> str:
    bend = (x1 + x2) / 2
    d = f"M{x1} {y1:.1f}C{bend} {y1:.1f} {bend} {y2:.1f} {x2} {y2:.1f}"
    if cut:
        x, y = bend, (y1 + y2) / 2
        cross = f'<path class="cross" d="M{x - 7} {y - 7:.1f}l14 14m0-14l-14 14"/>'
        return f'<path class="pipe cut" d="{d}"/>{cross}'
    flow = f'<path class="flow{" fast" if rate > 5 else ""}" d="{d}"/>' if rate >= 0.05 else ""
    return f'<path class="pipe" d="{d}"/>{flow}'


def _box(x1: float, x2: float, y: float, end: End) -> str:
    top = y - BOX / 2
    parts = [
        f'<rect class="box {end.level}" x="{x1}" y="{top:.1f}" width="{x2 - x1}" height="{BOX}" rx="9"/>',
        _text("name", x1 + 14, y - 4, _cut(end.name, 20), "start"),
        _text("sub", x1 + 14, y + 15, _cut(end.below, 44), "start"),
    ]
    if end.word and end.level:
        parts.append(_shape(end.level, x2 - 22, y - 17))
        parts.append(_text(f"word {end.level}", x2 - 28, y - 4, end.word, "end"))
    elif end.word:
        parts.append(_text("sub", x2 - 12, y - 4, end.word, "end"))
    return "".join(parts)


#: The shapes of the macros in macros.html, 16 by 16.
_SHAPES = {
    "good": '<circle cx="8" cy="8" r="7"/><path d="M4.6 8.3l2.3 2.4 4.5-5"/>',
    "warn": '<path class="fill" d="M8 1.2L15.4 14.4H.6z"/><path d="M8 6v4M8 12v.4"/>',
    "bad": '<rect x="1" y="1" width="14" height="14" rx="2"/><path d="M5 5l6 6M11 5l-6 6"/>',
    "idle": '<path class="fill" d="M8 1l7 7-7 7-7-7z"/>',
}


def _shape(level: str, x: float, y: float) -> str:
    place = f'x="{x}" y="{y}" width="15" height="15" viewBox="0 0 16 16"'
    return f'<svg class="mark {level}" {place}>{_SHAPES[level]}</svg>'


def _gate(status: Mapping[str, Any], middle: float, incoming: float, marks: tuple[float, float]) -> str:
    top, centre, width = middle - 92, (GATE + GATE_END) / 2, GATE_END - GATE
    level, _ = of_disk(status, *marks)
    used, queue = status["storage"]["used_fraction"], status["queue"]
    waiting = queue["pending"] + queue["active"] + queue["deferred"]
    full = max(2.0, used * (width - 40))
    state = f"{status['state']}{f' · {per_minute(incoming)} in' if incoming >= 0.05 else ''}"
    return "".join(
        (
            f'<rect class="gate" x="{GATE}" y="{top}" width="{width}" height="184" rx="14"/>',
            _text("name", centre, top + 27, _cut(status["site"]["name"], 28)),
            _text("sub", centre, top + 46, state),
            _text("big", centre, top + 83, f"{waiting:,}"),
            _text("sub", centre, top + 102, "waiting to go"),
            _held(queue["held"], centre, top + 118),
            f'<rect class="tank" x="{GATE + 20}" y="{top + 128}" width="{width - 40}" height="13" rx="6.5"/>',
            f'<rect class="level {level}" x="{GATE + 20}" y="{top + 128}" width="{full:.1f}" height="13" rx="6.5"/>',
            _text("sub", centre, top + 161, f"disk {percent(used)} · {size(status['storage']['free_bytes'])} free"),
        )
    )


def _held(count: int, x: float, y: float) -> str:
    return _text("word warn", x, y, f"{count:,} held for a decision") if count else ""


def _text(style: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _in_words(status: Mapping[str, Any], left: Sequence[End], right: Sequence[End]) -> str:
    told = "; ".join(f"{end.name}: {end.word or 'no state'}, {end.below}" for end in right)
    return f"The path: {counted(len(left), 'modality')} to {status['site']['name']}, and on to {told or 'nobody'}."
