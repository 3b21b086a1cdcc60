"""The table of the benchmark says what was measured, and its WAN is one. No timing is judged here."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.plots import draw_all
from tests.bench.report import Outcome, judge, lines
from tests.bench.row import Figures, Target
from tests.bench.rows import ROWS
from tests.bench.rows.overwan import copy
from tests.bench.stage import Stage
from tests.bench.wan import Line, Wan
from tests.support.peers import absent, free_port


class Made:
    """A row with two peers."""

    name, what, peers = "made", "a made row", ("edge", "a", "b")
    targets = (Target("s", ("a", "b"), 2.0, 3.0), Target("MB", at_least=64))

    def measure(self, peer: str, stage: Stage) -> Figures:
        raise AssertionError("made rows are not measured")


def run(edge: float, a: float, b: float, memory: float = 10) -> dict[str, Figures]:
    return {"edge": {"s": edge, "MB": memory}, "a": {"s": a, "MB": 0}, "b": {"s": b, "MB": 0}}


def test_ratios_are_taken_run_by_run_against_the_best_peer() -> None:
    runs = [run(1, 2, 9), run(2, 9, 6), run(1, 4, 5)]
    verdict = judge(Made(), Made.targets[0], runs)
    assert verdict == {"median": 3.0, "least": 2.0, "greatest": 4.0, "holds": True}


@pytest.mark.parametrize(("memory", "holds"), [(64, True), (65, False)])
def test_a_figure_without_a_peer_has_a_limit(memory: float, holds: bool) -> None:
    assert judge(Made(), Made.targets[1], [run(1, 2, 2, memory)])["holds"] is holds


def test_a_row_that_failed_says_so() -> None:
    assert lines(Outcome(Made(), [], "lost 3 objects\nand more"))[0][4] == "run 1 failed: lost 3 objects"
    assert len(lines(Outcome(Made(), [run(1, 2, 2)], "lost 3 objects"))) == 3


def test_a_plot_has_a_line_for_each_peer(tmp_path: Path) -> None:
    rows = [row for row in ROWS if row.name.startswith("rtt-")]
    outcomes = [Outcome(row, [{peer: {"s": number + 1.0} for peer in row.peers}]) for number, row in enumerate(rows)]
    draw_all(tmp_path, outcomes)
    (file,) = tmp_path.iterdir()
    drawing = ElementTree.parse(file)
    lines = drawing.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 1 + len(rows[0].peers), "the axes, and the peers"
    assert all(len(line.attrib["points"].split()) == len(rows) for line in lines[1:])


@pytest.fixture
def wan() -> Iterator[Wan]:
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        absent("root and /dev/net/tun, for network namespaces")
    with Wan(Line(rtt=0.1, mbit=10)) as wan:
        yield wan


def test_the_wan_has_its_rate(wan: Wan, tmp_path: Path) -> None:
    file = tmp_path / "bytes"
    file.write_bytes(bytes(500_000))
    assert copy(wan, [file]) > 0.35, "500,000 bytes at 10 Mbit/s take 0.4 s, less the first ones"


def test_the_wan_has_its_delay_and_its_outages(wan: Wan) -> None:
    port = free_port()
    with wan.far.run(lambda: socket.create_server((wan.far.address, port))) as server:
        began = time.monotonic()
        with wan.near.run(lambda: socket.create_connection((wan.far.address, port))) as near, server.accept()[0] as far:
            assert time.monotonic() - began >= 0.1, "a connection takes a round trip"
            wan.cut()
            near.sendall(b"x")
            far.settimeout(0.5)
            with pytest.raises(TimeoutError):
                far.recv(1)
            wan.mend()
            far.settimeout(60)
            assert far.recv(1) == b"x"
