"""`make torture`: the gateway under every fault and intruder that a site meets; docs/reliability.md has the figures.

Each row is tried its number of times, or for `--minutes`. The scorecard goes to the terminal and to
build/torture/scorecard.json and .md; with --publish also into docs/reliability.md and docs/reliability.json, row by
row: what is not played keeps the figures that it has.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.facts import facts
from tests.bench.stage import file_system
from tests.support.peers import REPOSITORY
from tests.torture import report
from tests.torture.disk import mounts_of_our_own
from tests.torture.row import Budget, Lacking, Row, Score
from tests.torture.rows import LIVES, PATIENT, ROWS, suite

ON_MEMORY = ("tmpfs", "ramfs")
ORDER = [row.name for row in ROWS]
#: So many rows of short lives, and of those that mostly wait, are played at the same time.
LIVES_AT_ONCE, PATIENT_AT_ONCE = 3, 6
#: Where a row neither is quick nor has its minutes set.
MINUTES = 10.0
console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, and return 0 if every row was survived every time."""
    given = _parser().parse_args(arguments)
    rows = [row for row in ROWS if _is_wanted(row, given)]
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if file_system(out) in ON_MEMORY:
        raise SystemExit(f"--out {given.out}: lies in memory, where nothing can be lost. Name a directory on a disk.")
    told, entries = facts(out, 1, given.quick), []
    for entry in _all(rows, out, given, told):
        entries.append(entry)
        whole = report.keep(out / "scorecard.json", entries[-1:], ORDER)
        (out / "scorecard.md").write_text(report.markdown(whole))
        if given.publish:
            kept = report.keep(REPOSITORY / "docs" / "reliability.json", entries[-1:], ORDER)
            others = [row for row in ROWS if row.name not in {each["name"] for each in kept}]
            report.insert(REPOSITORY / "docs" / "reliability.md", report.markdown(kept, others))
    report.show(console, entries)
    return int(bool(report.failed(entries)))


def _is_wanted(row: Row, given: argparse.Namespace) -> bool:
    if given.rows:
        return any(row.name.startswith(name) for name in given.rows)
    return not given.quick or row not in suite.ROWS  # whoever is in a hurry has run `make test`


def _all(rows: list[Row], out: Path, given: argparse.Namespace, told: dict[str, object]) -> Iterator[report.Entry]:
    """Those that work one after the other; then those that wait, side by side."""
    for row in rows:
        if row not in (*LIVES, *PATIENT):
            yield _play(row, out, given, told)
    for group, most in ((LIVES, LIVES_AT_ONCE), (PATIENT, PATIENT_AT_ONCE)):
        with ThreadPoolExecutor(most) as pool:
            yield from pool.map(lambda row: _play(row, out, given, told), [row for row in rows if row in group])


def _play(row: Row, out: Path, given: argparse.Namespace, told: dict[str, object]) -> report.Entry:
    most = given.tries or (row.quick if given.quick else row.long)
    budget = Budget(most or sys.maxsize, 60 * (given.minutes or MINUTES), given.seed, given.quick, given.fail_fast)
    place = Path(tempfile.mkdtemp(prefix=f"{row.name}-", dir=out))
    began = time.monotonic()
    try:
        score = row.play(place, budget)
    except (Lacking, pytest.skip.Exception, pytest.fail.Exception) as error:
        score = Score(missing=f"this machine cannot do it: {error}")
    except Exception as error:  # noqa: BLE001  a row that breaks off is not survived, and the others go on
        score = Score(tried=1, faults=[f"the row broke off: {type(error).__name__}: {error}"])
    finally:
        if not given.keep:
            shutil.rmtree(place, ignore_errors=True)
    made = report.entry(row, score, time.monotonic() - began, given.seed, told)
    verdict = "" if score.holds else score.missing or "; ".join(score.faults[:3])
    told_in = f"[bold]{row.name}[/bold]: {score.survived:,} of {score.tried:,} survived in {made['seconds']:g} s"
    console.print(f"{told_in}\n  {row.what}")
    if verdict:
        console.print(f"  {verdict}", style="red", markup=False)
    return made


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {row.name:<16} {row.what}" for row in ROWS)
    parser = argparse.ArgumentParser(
        prog="tests.torture",
        description=__doc__,
        epilog=f"rows (the beginning of a name will do):\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only these", type=_known)
    parser.add_argument("--quick", action="store_true", help="a short cut of each, for CI")
    parser.add_argument("--minutes", type=float, help=f"the longest that a row may go on ({MINUTES:g})")
    parser.add_argument("--tries", type=int, help="how often each row is tried")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="repeats the chances of a run")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "torture", help="directory, on a disk")
    parser.add_argument("--publish", action="store_true", help="write the figures into docs/reliability.md, too")
    parser.add_argument("--fail-fast", action="store_true", help="a row ends with its first fault")
    parser.add_argument("--keep", action="store_true", help="leave the rows' directories, to look into")
    return parser


def _known(name: str) -> str:
    if not any(row.name.startswith(name) for row in ROWS):
        raise argparse.ArgumentTypeError(f"no row begins with {name!r}; choose from {', '.join(ORDER)}")
    return name


if __name__ == "__main__":
    mounts_of_our_own()
    sys.exit(main())
