"""Small plots as SVG: one measured line over time and, dashed, where it is going. Pure; styled by the style sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from markupsafe import Markup

Point = tuple[float, float]  # (seconds since 1970, value)

WIDTH, HEIGHT = 320, 88
LEFT, RIGHT, TOP, BOTTOM = 2, 318, 14, 70
#: Points of a line; more cannot be told apart.
MOST = 160


def over_time(
    points: Sequence[Point],
    begin: float,
    now: float,
    *,
    label: str,
    unit: Callable[[float], str] = "{:,.0f}".format,
    forecast: Point | None = None,
    limit: float | None = None,
    top: float | None = None,
) -> Markup:
    """A line from `begin` until now; `forecast` is where it will be, `limit` a mark that must not be reached.

    `label` says in words what it shows, for those who do not see it. `top`: the greatest value of the scale, if given.
    """
    end = max(now, min(forecast[0], now + (now - begin) / 3)) if forecast else now
    highest = top or max([1.0, *(value for _, value in points), *([forecast[1]] if forecast else [])])

    def x(at: float) -> float:
        return round(LEFT + (at - begin) / (end - begin) * (RIGHT - LEFT), 1)

    def y(value: float) -> float:
        return round(BOTTOM - min(1.0, max(0.0, value / highest)) * (BOTTOM - TOP), 1)

    line = [(x(at), y(value)) for at, value in _thinned([p for p in points if p[0] >= begin])]
    parts = [_axis(begin, now, x), f'<text class="plot-top" x="{LEFT}" y="9">{Markup.escape(unit(highest))}</text>']
    if limit is not None:
        parts.append(f'<line class="plot-limit" x1="{LEFT}" x2="{RIGHT}" y1="{y(limit)}" y2="{y(limit)}"/>')
    if line:
        path = " ".join(f"{px},{py}" for px, py in line)
        parts.append(f'<polygon class="plot-area" points="{line[0][0]},{BOTTOM} {path} {line[-1][0]},{BOTTOM}"/>')
        parts.append(f'<polyline class="plot-line" points="{path}"/>')
        if forecast:
            at, value = _cut((now, points[-1][1]), forecast, end)
            parts.append(_dashes(line[-1], (x(at), y(value))))
        parts.append(f'<circle class="plot-now" cx="{line[-1][0]}" cy="{line[-1][1]}" r="2.6"/>')
    else:
        parts.append(f'<text class="plot-none" x="{WIDTH / 2}" y="{HEIGHT / 2}">nothing measured yet</text>')
    return Markup('<svg class="plot" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{body}</svg>').format(
        w=WIDTH, h=HEIGHT, label=label, body=Markup("".join(parts))
    )


def _cut(now: Point, forecast: Point, end: float) -> Point:
    """The forecast, no further than the plot goes."""
    if forecast[0] <= end:
        return forecast
    share = (end - now[0]) / (forecast[0] - now[0])
    return end, now[1] + share * (forecast[1] - now[1])


def _dashes(a: Point, b: Point) -> str:
    return f'<line class="plot-forecast" x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}"/>'


def _axis(begin: float, now: float, x: Callable[[float], float]) -> str:
    """A baseline, and a mark every six hours of local time (every day, where the plot is long)."""
    step = 6 if now - begin <= 2 * 86400 else 24
    parts = [f'<line class="plot-base" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>']
    hour = begin - begin % 3600 + 3600
    while hour <= now:
        local = datetime.fromtimestamp(hour).astimezone()
        if local.hour % step == 0:
            at = x(hour)
            text = local.strftime("%H:%M" if step == 6 else "%-d %b")
            parts.append(f'<line class="plot-tick" x1="{at}" x2="{at}" y1="{BOTTOM}" y2="{BOTTOM + 3}"/>')
            anchor = "start" if at < 16 else "end" if at > WIDTH - 16 else "middle"
            parts.append(f'<text class="plot-hour" x="{at}" y="{BOTTOM + 13}" text-anchor="{anchor}">{text}</text>')
        hour += 3600
    return "".join(parts)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MOST` points: of each stretch the highest, for a peak must not vanish; the last as it is."""
    if len(points) <= MOST:
        return list(points)
    stretch = -(-len(points) // MOST)
    highest = [max(points[i : i + stretch], key=lambda p: p[1]) for i in range(0, len(points) - stretch, stretch)]
    return [*highest, points[-1]]
