"""Two plots, as SVG: intake as the catalog grows, and a backlog leaving as the line gets longer.

Each is drawn from the rows that were measured; with fewer than two of them it is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.peers import DCMSEND, EDGE, STORESCU
from tests.bench.row import SECONDS
from tests.bench.rows.growth import EMPTY, INTAKE, INTAKE_COUNT
from tests.bench.rows.overwan import RTT_BYTES, RTTS, TCP

if TYPE_CHECKING:
    from tests.bench.report import Outcome

WIDTH, HEIGHT, MARGIN, KEY = 640, 360, 56, 130
COLOURS = ("#c0392b", "#2c3e50", "#2980b9", "#27ae60")


@dataclass(frozen=True)
class Plot:
    """A line for each peer; a point for each row."""

    file: str
    title: str
    across: str
    up: str
    at: Mapping[str, float]  # row name -> where on the x axis
    figure: str
    work: float  # what was done in the figure's seconds, in the unit of `up`
    peers: tuple[str, ...]

    def lines(self, outcomes: Sequence[Outcome]) -> dict[str, list[tuple[float, float]]]:
        """The points of each peer, from left to right: rates, of the medians of the runs."""
        measured = {o.row.name: o.runs for o in outcomes if o.row.name in self.at and o.runs}
        places = sorted(measured, key=lambda name: self.at[name])
        return {
            peer: [
                (self.at[name], self.work / statistics.median(run[peer][self.figure] for run in measured[name]))
                for name in places
            ]
            for peer in self.peers
        }


PLOTS = (
    Plot(
        "intake-by-catalog.svg",
        "Objects of 10 KB in, one association",
        "instances in the catalog",
        "objects/s",
        {"growth-100k": 100_000, "growth-500k": 500_000, "growth": 2_000_000},
        INTAKE,
        INTAKE_COUNT,
        (EDGE, EMPTY),
    ),
    Plot(
        "drain-by-rtt.svg",
        "CT of 512 KiB out, 100 Mbit/s",
        "round trip, ms",
        "Mbit/s",
        {f"rtt-{ms}": ms for ms in RTTS},
        SECONDS,
        RTT_BYTES * 8 / 1e6,
        (EDGE, TCP, STORESCU, DCMSEND),
    ),
)


def draw_all(directory: Path, outcomes: Sequence[Outcome]) -> None:
    for plot in PLOTS:
        lines = plot.lines(outcomes)
        if len(lines[EDGE]) > 1:
            (directory / plot.file).write_text(draw(plot, lines))


def draw(plot: Plot, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """An SVG. Both axes begin at 0 and end at the greatest value."""
    right = max(x for points in lines.values() for x, _ in points)
    top = max(y for points in lines.values() for _, y in points)

    def place(x: float, y: float) -> str:
        across, up = x / right * (WIDTH - MARGIN - KEY), y / top * (HEIGHT - 2 * MARGIN)
        return f"{MARGIN + across:.1f},{HEIGHT - MARGIN - up:.1f}"

    parts = [_text(WIDTH / 2, 24, plot.title), _text((WIDTH - KEY) / 2, HEIGHT - 10, plot.across)]
    parts += [_text(MARGIN, MARGIN - 12, plot.up), _text(MARGIN - 22, MARGIN + 4, f"{top:,.0f}")]
    parts += [_text(float(place(x, 0).split(",")[0]), HEIGHT - MARGIN + 18, f"{x:,.0f}") for x, _ in lines[EDGE]]
    parts.append(_path([place(0, top), place(0, 0), place(right, 0)], "#888"))
    for number, (peer, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(_path([place(*point) for point in points], colour))
        parts.append(_text(WIDTH - KEY / 2, MARGIN + 20 * number, peer, colour))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12"'
    inside = "\n".join(['<rect width="100%" height="100%" fill="white"/>', *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{inside}\n</svg>\n'


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" fill="{colour}">{text}</text>'


def _path(points: Sequence[str], colour: str) -> str:
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>'
