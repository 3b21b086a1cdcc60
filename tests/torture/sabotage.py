"""Breaks the gateway's code on purpose, in a copy, point by point: a row of the torture must go red each time.

    python -m tests.torture.sabotage [WORD...]      only those whose promise has one of the words

The table goes to the terminal, and into docs/reliability.md with --publish. Exit 1 if any sabotage went unnoticed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.console import Console

from tests.support.peers import ENVIRONMENT, REPOSITORY

BEGIN, END = "<!-- sabotages -->", "<!-- end of the sabotages -->"
HEADINGS = ("broken on purpose", "the row that noticed", "what it said")
console = Console(highlight=False)


@dataclass(frozen=True)
class Sabotage:
    """Replace `old` by `new` in one file: then the row must not hold."""

    promise: str
    file: str
    old: str
    new: str
    row: str
    tries: int = 0  # 0: as many as the quick row makes


SABOTAGES = (
    Sabotage(
        "files are synced before their rows",
        "edge/intake/apply.py",
        "            self._spool.sync_all()\n",
        "            pass\n",
        "sync-order",
        5,
    ),
    Sabotage(
        "the record is flushed before the answer",
        "edge/journal/writer.py",
        "os.pwritev(fd, views, offset, os.RWF_DSYNC)",
        "os.pwritev(fd, views, offset)",
        "sync-order",
        5,
    ),
    Sabotage(
        "the rows are synced before the answer",
        "edge/store/sqlite_file.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = OFF",
        "power-ext4",
        30,
    ),
    Sabotage(
        "the answer follows the record",
        "edge/scp/services/store.py",
        "        answer = responder.recorder.accept(recording, context_key, uid, origin)",
        "        responder.respond(request, StoreResponse(0))\n"
        "        return (None, responder.recorder.accept(recording, context_key, uid, origin))[0]",
        "kill-many",
        60,
    ),
    Sabotage(
        "the answer to a commitment request follows its record",
        "edge/scp/services/storage_commitment.py",
        "        responder.recorder.record(recording, kind, commitment_request.encode(facts))\n",
        "        responder.respond(request, StoreResponse(SUCCESS))\n"
        "        time.sleep(0.05)\n"
        "        responder.recorder.record(recording, kind, commitment_request.encode(facts))\n",
        "commitment-kill",
        10,
    ),
    Sabotage(
        "the answer to an HL7 message follows its record",
        "edge/hl7/recorder.py",
        "            self._append(data, Draft(hl7_frame.CODE, hl7_frame.encode(frame)))\n",
        "            import threading\n"
        "            draft = Draft(hl7_frame.CODE, hl7_frame.encode(frame))\n"
        "            threading.Timer(0.05, self._append, (data, draft)).start()\n",
        "hl7-kill",
        10,
    ),
    Sabotage(
        "leases of a killed run end",
        "edge/store/leases.py",
        'sum(conn.execute(sql, {"owner": owner}).rowcount for sql in _RETURN_ALL)',
        "0",
        "kill-points",
    ),
    Sabotage(
        "partial files of a killed run go",
        "edge/spool/__init__.py",
        '        partials = list(self.incoming.glob("*.part"))',
        "        partials: list[Path] = []",
        "kill-points",
    ),
    Sabotage(
        "a fault of the disk is spoken of",
        "edge/spool/__init__.py",
        "            path.unlink()\n        return len(partials)",
        "            try:\n                path.unlink()\n            except OSError:\n                pass\n"
        "        return len(partials)",
        "error-points",
    ),
    Sabotage(
        "a whole file without a row is adopted",
        "edge/storage/recovery.py",
        "        orphans=tuple(sorted(files.keys() - rows.keys())),",
        "        orphans=(),",
        "kill-points",
    ),
    Sabotage(
        "rows go before their files",
        "edge/storage/retention.py",
        "        gone = self._db.write(work)\n        for each in gone:\n            self._remove(each.path)\n"
        "        return gone",
        "        for each in chosen:\n            with self._db.reading() as conn:\n"
        "                row = conn.execute('SELECT path FROM instance WHERE id = ?', (each.instance_id,)).fetchone()\n"
        "            self._spool.remove(row[0])\n        return self._db.write(work)",
        "kill-points",
    ),
    Sabotage(
        "a sync that failed is not tried again",
        "edge/spool/__init__.py",
        "            sync_file_system(self._sync_fd)\n\n    def path_of",
        "            try:\n                sync_file_system(self._sync_fd)\n            except OSError:\n"
        "                sync_file_system(self._sync_fd)\n\n    def path_of",
        "error-points",
    ),
    Sabotage(
        "after a failed sync nothing is accepted",
        "edge/store/database.py",
        "            self._failure = reason\n",
        "            pass\n",
        "error-points",
    ),
    Sabotage(
        "after a failed commit the log is not synced again",
        "edge/store/database.py",
        "        if self._failure is not None:\n            return\n",
        "",
        "error-points",
    ),
    Sabotage(
        "after a failed flush nothing is accepted",
        "edge/scp/recorder.py",
        "            self._fail(str(error))\n            return answer_for(error)\n",
        "            return answer_for(error)\n",
        "error-points",
    ),
    Sabotage(
        "a segment whose flush failed takes no further record",
        "edge/journal/writer.py",
        "            self._has_failed = isinstance(error, StorageUnhealthy)\n"
        "            self._leave(SegmentState.POISONED)\n",
        "            pass\n",
        "full-points",
    ),
    Sabotage(
        "a full disk is not taken for a success",
        "edge/scp/recorder.py",
        "        except (Hindered, MemoryError) as error:\n            return answer_for(error)\n",
        "        except (Hindered, MemoryError):\n            return StoreResponse(SUCCESS)\n",
        "full-points",
    ),
    Sabotage(
        "a body that is cut is never a success",
        "edge/scp/dicomweb/report.py",
        "    if not is_whole or not parts:\n",
        "    if not parts:\n",
        "web-hostile",
    ),
    Sabotage(
        "what STOW-RS names as stored is recorded",
        "edge/scp/recorder.py",
        "            append_all(self._journal, [(each.recording, self.draft(each)) for each in kept])\n",
        "            [self.draft(each) for each in kept]\n",
        "stow-kill",
    ),
    Sabotage(
        "one read error is not a loss",
        "edge/outbound/transport/dimse.py",
        "error.errno == errno.EIO and job.lease.attempts + 1 >= _READS",
        "error.errno == errno.EIO",
        "read-points",
    ),
    Sabotage(
        "an attempt without an answer is not a success",
        "edge/outbound/transport/dimse.py",
        "            self._scheduler.note_break(self, job, error, is_first=not session.answers)",
        "            self._scheduler.note_answer(job, 0, '', 0.1)",
        "peer-moody",
    ),
    Sabotage(
        "rotten bytes are never whole at the archive",
        "edge/dicom/wire.py",
        "if sent == length and running.digest() != expected.value:",
        "if False:",
        "rot-files",
    ),
    Sabotage(
        "half a request is cut",
        "edge/scp/listener.py",
        "REQUEST_SECONDS = 15.0",
        "REQUEST_SECONDS = 300.0",
        "half-requests",
    ),
    Sabotage(
        "half a PDU is cut",
        "edge/dicom/pdu.py",
        "PDU_SECONDS = 25.0",
        "PDU_SECONDS = 250.0",
        "half-pdus",
    ),
    Sabotage(
        "damage is refused in words",
        "edge/dicom/command.py",
        '        if end - at < 8:\n            raise ProtocolError("the command set ends inside an element")\n',
        "",
        "fuzz-decoder",
        20_000,
    ),
    Sabotage(
        "only a bounded part of a header is read",
        "edge/dicom/header.py",
        "MAX_LOOK = 2 * 1024 * 1024",
        "MAX_LOOK = 1 << 40",
        "hostile-objects",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.torture.sabotage", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "sabotage", help="directory, on a disk")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/reliability.md, too")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = [each for each in SABOTAGES if not given.words or any(word in each.promise for word in given.words)]
    unnoticed = 0
    for each in chosen:
        began = time.monotonic()
        noticed, said = commit(each, out)
        unnoticed += not noticed
        verdict = "noticed" if noticed else "[red]NOT NOTICED[/red]"
        console.print(f"{each.promise}: {verdict} by {each.row} in {time.monotonic() - began:.0f} s")
        console.print(f"  {said}", markup=False)
        table = keep(out / "sabotages.json", each, noticed, said)
    if given.publish and chosen:
        document = REPOSITORY / "docs" / "reliability.md"
        head, _, rest = document.read_text().partition(BEGIN)
        document.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")
    return int(bool(unnoticed))


def keep(path: Path, sabotage: Sabotage, noticed: bool, said: str) -> str:
    """Put one outcome with the others; returns the table of all."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known[sabotage.promise] = [f"`{sabotage.row}`" if noticed else "**nobody**", said.replace("|", "/")[:160]]
    path.write_text(json.dumps(known, indent=1))
    rows = [[each.promise, *known[each.promise]] for each in SABOTAGES if each.promise in known]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [list(HEADINGS), ["---"] * 3, *rows])


def commit(sabotage: Sabotage, out: Path) -> tuple[bool, str]:
    """Play the row on a sound copy, and on a broken one: (was it noticed, the row's first words)."""
    falls, said = _play(sabotage.row, sabotage.tries, out)
    if falls:
        return False, f"the row does not hold without it: {said}"
    return _play(sabotage.row, sabotage.tries, out, sabotage)


@cache
def _play(row: str, tries: int, out: Path, sabotage: Sabotage | None = None) -> tuple[bool, str]:
    """Play a row on a copy: (does it fall, its first words)."""
    with tempfile.TemporaryDirectory(dir=out) as name:
        copy = Path(name)
        for folder in ("edge", "tests"):
            shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", copy)
        if sabotage is not None:
            file = copy / sabotage.file
            text = file.read_text("utf-8")
            assert sabotage.old in text, f"{sabotage.file} has changed: sabotage it elsewhere ({sabotage.promise})"
            file.write_text(text.replace(sabotage.old, sabotage.new), "utf-8")
        most = ["--tries", str(tries)] if tries else []
        done = subprocess.run(
            [sys.executable, "-m", "tests.torture", row, "--quick", "--fail-fast", *most, "--seed", "1"],
            cwd=copy,
            env={**ENVIRONMENT, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
        scorecard = copy / "build" / "torture" / "scorecard.json"
        if done.returncode != 1 or not scorecard.exists():
            return False, done.stdout[-300:] + done.stderr[-300:] if done.returncode else "all was survived"
        entry = next(each for each in json.loads(scorecard.read_text()) if not each["holds"])
        if entry["missing"]:
            return False, entry["missing"]
        return True, " ".join(str(entry["faults"][0]).replace(str(copy), "").split())


if __name__ == "__main__":
    sys.exit(main())
