"""The torture and the benchmark run, and keep what they have found. No timing is judged here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.__main__ import main as measure
from tests.support.peers import REPOSITORY
from tests.torture.__main__ import main as torment


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A directory that is not in memory, whatever /tmp is."""
    path = REPOSITORY / "build" / f"tools-test-{os.getpid()}"
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
def test_three_rows_of_the_torture_in_a_hurry(on_disk: Path) -> None:
    """`sync-order` sees what the receiving processes do, too."""
    rows = ["kill-many", "sync-order", "fuzz-decoder"]
    assert torment([*rows, "--tries", "3", "--seed", "1", "--out", str(on_disk)]) == 0
    told = json.loads((on_disk / "scorecard.json").read_text())
    assert [(row["name"], row["holds"], row["seed"]) for row in told] == [(name, True, 1) for name in rows]
    assert "| `kill-many` |" in (on_disk / "scorecard.md").read_text()
    assert sorted(path.name for path in on_disk.iterdir()) == ["scorecard.json", "scorecard.md"]


@pytest.mark.slow
def test_two_rows_of_the_benchmark_in_a_hurry(on_disk: Path) -> None:
    assert measure(["in-1", "out", "--quick", "--out", str(on_disk)]) == 0
    told = json.loads((on_disk / "bench.json").read_text())
    assert [row["name"] for row in told["rows"]] == ["in-1", "out"]
    for row in told["rows"]:
        (run,) = row["runs"]
        assert set(run) == set(row["peers"])
        assert all(value > 0 for figures in run.values() for value in figures.values())
        assert all(target["holds"] in (True, False, None) for target in row["targets"])
    assert "| in, CT 512 KiB, 1 association | s |" in (on_disk / "bench.md").read_text()
    assert sorted(path.name for path in on_disk.iterdir()) == ["bench.json", "bench.md"], "the work directory is left"
