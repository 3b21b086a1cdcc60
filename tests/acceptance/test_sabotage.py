"""The tests of the promises can fail: each promise is broken on purpose, in a copy, and its tests must notice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.peers import ENVIRONMENT, REPOSITORY


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
        "the record is flushed before the answer",
        "edge/journal/writer.py",
        "os.pwritev(fd, views, offset, os.RWF_DSYNC)",
        "os.pwritev(fd, views, offset)",
        "tests/system/test_durability.py",
    ),
    Sabotage(
        "files are synced before their rows",
        "edge/intake/apply.py",
        "            self._spool.sync_all()\n",
        "            pass\n",
        "tests/store/test_intake.py -k rows_follow",
    ),
    Sabotage(
        "rows are synced before their record is let go",
        "edge/store/sqlite_file.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = OFF",
        "tests/system/test_durability.py",
    ),
    Sabotage(
        "what the journal holds is replayed",
        "edge/journal/service.py",
        "        for item in replay:\n",
        "        for item in list(replay)[:0]:\n",
        "tests/store/test_intake.py -k crash_behind",
    ),
    Sabotage(
        "applied up to is part of the transaction",
        "edge/intake/apply.py",
        "            journal_progress.note_applied(conn, upto)\n",
        "",
        "tests/store/test_intake.py -k not_applied_again",
    ),
    Sabotage(
        "what fails is not counted as applied",
        "edge/journal/apply.py",
        "        self._applier.apply(tuple(self._items), changed)\n"
        "        self._progress = progress.keep(self._is_live)\n",
        "        self._progress = progress.keep(self._is_live)\n"
        "        self._applier.apply(tuple(self._items), changed)\n",
        "tests/store/test_journal.py -k comes_again_whole",
    ),
    Sabotage(
        "only what is applied is recycled",
        "edge/journal/ring.py",
        "            if self.control.applied_count(number) < self.control.written_count(number):\n",
        "            if self.control.applied_count(number) < 0:\n",
        "tests/store/test_journal.py -k full_ring",
    ),
    Sabotage(
        "a body is verified before it is applied",
        "edge/journal/replay.py",
        "    if not is_whole or left or found.digest() != head.checksum:",
        "    if not is_whole or left:",
        "tests/store/test_large_objects.py -k rots",
    ),
    Sabotage(
        "a receive buffer is kept until its object is written",
        "edge/intake/apply.py",
        "            wait([self._beside[identity]])\n",
        "            pass\n",
        "tests/store/test_preparing.py -k buffer",
    ),
    Sabotage(
        "what is made again is written by nobody else",
        "edge/intake/apply.py",
        "        wait(self._beside.values())",
        "        pass",
        "tests/store/test_preparing.py -k fails",
    ),
    Sabotage(
        "what gave its buffer back is read from its segment",
        "edge/journal/holding.py",
        "self._memory(held.notice) if held.has_slot else self._read(held)",
        "self._memory(held.notice)",
        "tests/store/test_journal_holding.py -k gave_it_back",
    ),
    Sabotage(
        "who waits longest for a receive buffer has the next one",
        "edge/journal/line.py",
        "                turn.acquire()\n",
        "                pass\n",
        "tests/store/test_journal.py -k waits_longest",
    ),
    Sabotage(
        "an object is received in its place",
        "edge/dicom/pdu_reader.py",
        "            target.took(taken)\n",
        "            target.took(count)\n",
        "tests/wire/test_wire.py -k received_in_place",
    ),
    Sabotage(
        "a long object is sealed before its record",
        "edge/scp/recorder.py",
        "            file.seal()\n",
        "            pass\n",
        "tests/store/test_large_objects.py -k synced_before",
    ),
    Sabotage(
        "the file of a long object is synced",
        "edge/journal/body_file.py",
        "            os.fdatasync(self._fd)\n",
        "            pass\n",
        "tests/store/test_large_objects.py -k synced_before",
    ),
    Sabotage(
        "the name of that file is synced",
        "edge/journal/body_file.py",
        "            segment.sync_folder(self._folder)\n",
        "            pass\n",
        "tests/store/test_large_objects.py -k synced_before",
    ),
    Sabotage(
        "a record whose flush failed keeps its file",
        "edge/journal/writer.py",
        "                each.entry.file.hand_over()\n",
        "                pass\n",
        "tests/store/test_large_objects.py -k whose_flush_failed",
    ),
    Sabotage(
        "a file without a record goes",
        "edge/journal/body_file.py",
        "        if path.exists():\n            keep",
        "        if False:\n            keep",
        "tests/store/test_large_objects.py -k ends_before",
    ),
    Sabotage(
        "a long object does not fill the disk",
        "edge/scp/recorder.py",
        "            self._check_room()\n",
        "            pass\n",
        "tests/store/test_large_objects.py -k fills_the_disk",
    ),
    Sabotage(
        "a damaged segment is kept",
        "edge/intake/apply.py",
        "            segment.keep_damaged(each.segment)\n",
        "            pass\n",
        "tests/store/test_large_objects.py -k not_recycled",
    ),
    Sabotage(
        "what was moved before a crash is found",
        "edge/intake/apply.py",
        "            path = self._spool.path_of(name)\n",
        "            pass\n",
        "tests/store/test_large_objects.py -k ends_before",
    ),
    Sabotage(
        "a rebuilt catalog enters nothing twice",
        "edge/storage/rebuild/instances.py",
        "                upto[item.identity.generation] = item.identity.index + 1\n",
        "                pass\n",
        "tests/store/test_journal_tail.py -k enters_nothing_twice",
    ),
    Sabotage(
        "who asks gets what was answered before",
        "edge/cli/session.py",
        "            self._settle()\n",
        "            pass\n",
        "tests/cli/test_cli.py -k still_wait",
    ),
    Sabotage(
        "one object never stops those beside it",
        "edge/intake/entries.py",
        "        entry.as_odd().work(conn, None)\n",
        "        raise error\n",
        "tests/store/test_intake.py -k does_not_stop",
    ),
    Sabotage(
        "work is one transaction",
        "edge/store/database.py",
        "            self._roll_back()\n            if len(jobs) == 1",
        '            self._writer.execute("COMMIT")\n            if len(jobs) == 1',
        "tests/store/test_db.py -k rolled_back",
    ),
    Sabotage(
        "the answer follows the record",
        "edge/scp/services/store.py",
        "        answer = responder.recorder.accept(recording, context_key, uid, origin)",
        "        responder.respond(request, StoreResponse(0))\n"
        "        return (None, responder.recorder.accept(recording, context_key, uid, origin))[0]",
        "tests/system/test_durability.py",
    ),
    Sabotage(
        "after a failed sync nothing is accepted",
        "edge/store/database.py",
        "            if self._failure is not None:\n                raise StorageUnhealthy(self._failure)\n",
        "",
        "tests/store/test_db.py -k failed_sync",
    ),
    Sabotage(
        "a permanent refusal is not tried again",
        "edge/dicom/status.py",
        "Outcome.HOLD",
        "Outcome.DEFER",
        "tests/unit/test_status.py",
    ),
    Sabotage(
        "nothing unconfirmed is evicted",
        "edge/store/eviction.py",
        " AND open_deliveries = 0",
        "",
        "tests/store/test_retention.py",
    ),
    Sabotage(
        "leases of a killed run end",
        "edge/store/leases.py",
        'return sum(conn.execute(sql, {"owner": owner}).rowcount for sql in _RETURN_ALL)',
        "return 0",
        "tests/store/test_intake.py -k leases",
    ),
    Sabotage(
        "a duplicate never takes the stored file away",
        "edge/intake/entries.py",
        "            intake.spool.remove(self._stored.path)",
        "            intake.spool.remove(added.path)",
        "tests/wire/test_receive.py -k same_object",
    ),
    Sabotage(
        "rotten bytes are never whole at the archive",
        "edge/dicom/wire.py",
        "if sent == length and running.digest() != expected.value:",
        "if False:",
        "tests/wire/test_wire.py -k rotten",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda each: each.promise)
def test_a_broken_promise_is_noticed(tmp_path: Path, sabotage: Sabotage) -> None:
    for folder in ("edge", "tests"):  # with their bytecode: to compile all anew takes longer than most of these tests
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
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
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path), "PATIENCE": "10"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 1, f"nobody noticed ({done.returncode})\n{done.stdout[-3000:]}"
