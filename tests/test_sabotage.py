"""The tests of the promises can fail: each promise is broken on purpose, in a copy, and its tests must notice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import ENVIRONMENT, REPOSITORY


@dataclass(frozen=True)
class Sabotage:
    """Replace `old` by `new` in one file: then one of `tests` must fail."""

    promise: str
    file: str
    old: str
    new: str
    tests: str


SABOTAGES = (
    Sabotage(
        "the file is synced before its name",
        "edge/spool.py",
        "            os.fsync(self._fd)\n\n    def finish",
        "            pass\n\n    def finish",
        "tests/test_intake.py -k order",
    ),
    Sabotage(
        "the directory is synced before the rows",
        "edge/store/database.py",
        "                barrier.sync()\n",
        "                pass\n",
        "tests/test_intake.py -k order",
    ),
    Sabotage(
        "the rows are synced before the answer",
        "edge/store/sqlite_file.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = OFF",
        "tests/test_durability.py",
    ),
    Sabotage(
        "work is one transaction",
        "edge/store/database.py",
        "            self._roll_back()\n            if len(jobs) == 1",
        '            self._writer.execute("COMMIT")\n            if len(jobs) == 1',
        "tests/test_db.py -k rolled_back",
    ),
    Sabotage(
        "the answer follows the commit",
        "edge/scp/association.py",
        "            answer = self._receiver.intake.accept(partial, kind, uid, origin)",
        "            self._respond(context, command, Answer(SUCCESS))\n"
        "            return (None, self._receiver.intake.accept(partial, kind, uid, origin))[0]",
        "tests/test_durability.py",
    ),
    Sabotage(
        "after a failed sync nothing is accepted",
        "edge/store/database.py",
        "            if self._failure is not None:\n                raise StorageUnhealthy(self._failure)\n",
        "",
        "tests/test_db.py -k failed_sync",
    ),
    Sabotage(
        "a permanent refusal is not tried again",
        "edge/dicom/status.py",
        "Outcome.HOLD",
        "Outcome.DEFER",
        "tests/test_status.py",
    ),
    Sabotage(
        "nothing unconfirmed is evicted",
        "edge/store/catalog.py",
        " AND open_deliveries = 0",
        "",
        "tests/test_retention.py",
    ),
    Sabotage(
        "leases of a killed run end",
        "edge/store/deliveries.py",
        "return conn.execute(_UNTRIED + \" WHERE state = 'active'\").rowcount",
        "return 0",
        "tests/test_intake.py -k leases",
    ),
    Sabotage(
        "a duplicate never takes the stored file away",
        "edge/intake.py",
        "            self._spool.remove(stored.path)",
        "            self._spool.remove(added.path)",
        "tests/test_receive.py -k same_object",
    ),
    Sabotage(
        "rotten bytes are never whole at the archive",
        "edge/dicom/pdu.py",
        "if sent == length and sha256 is not None and digest.digest() != sha256:",
        "if False:",
        "tests/test_wire.py -k rotten",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda each: each.promise)
def test_a_broken_promise_is_noticed(tmp_path: Path, sabotage: Sabotage) -> None:
    for folder in ("edge", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    file = tmp_path / sabotage.file
    text = file.read_text("utf-8")
    assert sabotage.old in text, "the code has changed: sabotage it elsewhere"
    file.write_text(text.replace(sabotage.old, sabotage.new), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *sabotage.tests.split(" -k ")[:1]]
    chosen = sabotage.tests.partition(" -k ")[2]
    done = subprocess.run(
        [*command, *(["-k", chosen] if chosen else [])],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 1, f"nobody noticed ({done.returncode})\n{done.stdout[-3000:]}"
