"""Small plots as SVG: measured values over time and, dashed, a forecast. Pure; the style sheet sets the colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from markupsafe import Markup

Point = tuple[float, float]  # (seconds since 1970, value)

_DAY = 86400.0
_WIDTH, _HEIGHT = 320, 88
_LEFT, _RIGHT, _TOP, _BOTTOM = 2, 318, 14, 70
#: Points of a line; more cannot be distinguished.
_MOST_POINTS = 160


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
    """Return a plot from `begin` until now, with a `forecast` and a `limit` that must not be reached.

    `label` describes it for screen readers. `top`: the greatest value of the scale (default: of the points).
    """
    end = max(now, min(forecast[0], now + (now - begin) / 3)) if forecast else now
    highest = top or max([1.0, *(value for _, value in points), *([forecast[1]] if forecast else [])])

    def x(at: float) -> float:
        return round(_LEFT + (at - begin) / (end - begin) * (_RIGHT - _LEFT), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - min(1.0, max(0.0, value / highest)) * (_BOTTOM - _TOP), 1)

    line = [(x(at), y(value)) for at, value in _thin([p for p in points if p[0] >= begin])]
    parts = [_axis(begin, now, x), f'<text class="plot-top" x="{_LEFT}" y="9">{Markup.escape(unit(highest))}</text>']
    if limit is not None:
        parts.append(f'<line class="plot-limit" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(limit)}" y2="{y(limit)}"/>')
    if line:
        path = " ".join(f"{px},{py}" for px, py in line)
        parts.append(f'<polygon class="plot-area" points="{line[0][0]},{_BOTTOM} {path} {line[-1][0]},{_BOTTOM}"/>')
        parts.append(f'<polyline class="plot-line" points="{path}"/>')
        if forecast:
            at, value = _cut((now, points[-1][1]), forecast, end)
            ends = f'x1="{line[-1][0]}" y1="{line[-1][1]}" x2="{x(at)}" y2="{y(value)}"'
            parts.append(f'<line class="plot-forecast" {ends}/>')
        parts.append(f'<circle class="plot-now" cx="{line[-1][0]}" cy="{line[-1][1]}" r="2.6"/>')
    else:
        parts.append(f'<text class="plot-none" x="{_WIDTH / 2}" y="{_HEIGHT / 2}">nothing measured yet</text>')
    return Markup('<svg class="plot" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{body}</svg>').format(
        w=_WIDTH, h=_HEIGHT, label=label, body=Markup("".join(parts))
    )


def _cut(now: Point, forecast: Point, end: float) -> Point:
    """Cut the forecast at the end of the plot."""
    if forecast[0] <= end:
        return forecast
    share = (end - now[0]) / (forecast[0] - now[0])
    return end, now[1] + share * (forecast[1] - now[1])


def _axis(begin: float, now: float, x: Callable[[float], float]) -> str:
    """Return a baseline with marks: every six hours of local time, every few days, or every two months."""
    parts = [f'<line class="plot-base" x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>']
    for moment, text in _marks(begin, now):
        at = x(moment)
        if text:
            parts.append(f'<line class="plot-tick" x1="{at}" x2="{at}" y1="{_BOTTOM}" y2="{_BOTTOM + 3}"/>')
            anchor = "start" if at < 16 else "end" if at > _WIDTH - 16 else "middle"
            parts.append(f'<text class="plot-hour" x="{at}" y="{_BOTTOM + 13}" text-anchor="{anchor}">{text}</text>')
    return "".join(parts)


def _marks(begin: float, now: float) -> Iterator[tuple[float, str]]:
    """The moments that are marked, with their texts: at most about eight."""
    if now - begin <= 2 * _DAY:
        hour = begin - begin % 3600 + 3600
        while hour <= now:
            local = datetime.fromtimestamp(hour).astimezone()
            if local.hour % 6 == 0:
                yield hour, local.strftime("%H:%M")
            hour += 3600
        return
    by_month = now - begin > 70 * _DAY
    day = datetime.fromtimestamp(begin).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    every = max(1, round((now - begin) / _DAY / 6))
    for count in range(1, int((now - begin) / _DAY) + 2):
        at = datetime.fromtimestamp(day.timestamp() + count * _DAY + 7200).astimezone().replace(hour=0)
        if by_month and at.day == 1 and at.month % 2 == 1 and at.timestamp() <= now:
            yield at.timestamp(), at.strftime("%b %Y" if at.month == 1 else "%b")
        elif not by_month and count % every == 0 and at.timestamp() <= now:
            yield at.timestamp(), at.strftime("%-d %b")


def _thin(points: Sequence[Point]) -> list[Point]:
    """Return at most _MOST_POINTS points: the highest of each stretch, so that peaks remain, and the last."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    stretch = -(-len(points) // _MOST_POINTS)
    highest = [max(points[i : i + stretch], key=lambda p: p[1]) for i in range(0, len(points) - stretch, stretch)]
    return [*highest, points[-1]]
