"""What the suite of tests tries one by one, counted here: tables of outcomes, and bits flipped in the catalog."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.support.peers import ENVIRONMENT, REPOSITORY
from tests.torture.row import Budget, Score


@dataclass(frozen=True)
class Suite:
    """`flips`: the tests make so many of them, and each counts."""

    name: str
    what: str
    tests: tuple[str, ...]
    survives: str = "the outcome that the test states"
    long: int = 0
    quick: int = 0
    flips: bool = False

    def play(self, place: Path, budget: Budget) -> Score:
        report, count = place / "junit.xml", budget.few(1_000, 50)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "--timeout=900",
        ]
        done = subprocess.run(
            [*command, f"--basetemp={place / 'tmp'}", *self.tests],
            cwd=REPOSITORY,
            env={**ENVIRONMENT, "EDGE_FLIPS": str(count), "CI": os.environ.get("CI", "")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert report.exists(), done.stdout[-2000:]
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
        score = Score()
        for case in cases:
            faults = [child.get("message") or "" for child in case if child.tag in ("failure", "error", "skipped")]
            score.tell([fault.splitlines()[0] if fault else "failed" for fault in faults], str(case.get("name")))
        if self.flips:
            score.tried, score.survived = score.tried * count, score.survived * count
        return score


ROWS = (
    Suite(
        "peer-table",
        "peers that abort, answer late, twice or another message, grant less, close, commit in part, late or never",
        ("tests/outbound/test_forward.py", "tests/outbound/test_confirm.py", "tests/wire/test_association.py"),
    ),
    Suite(
        "rot-catalog",
        "a bit is flipped in the catalog or in its log, and `edge verify` asked",
        ("tests/store/test_scrub.py", "-k", "every_flipped_bit"),
        survives="found, or custody is as it was",
        flips=True,
    ),
)
