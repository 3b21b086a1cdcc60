"""`edge init` at a terminal: what it cannot read it asks for again, and nothing is lost."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from edge import config
from tests.support.peers import ENVIRONMENT, REPOSITORY, free_port

#: What is typed: each answer that cannot be read is followed by one that can.
ANSWERS = [
    "0067",
    "Clinic",
    "VNA10.1.2.3",
    "VNA@127.0.0.1:{port}",
    "often",
    "query",
    "",
    "A_NAME_OF_MORE_THAN_16",
    "",
    "99999",
    "",
    "CT1@10.10.4",
    "CT1@10.10.4.21:104",
    "",
    "anna",
    "",
]


def test_an_answer_that_cannot_be_read_is_asked_for_again(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, "".join(f"{each}\n" for each in ANSWERS).format(port=free_port()).encode())
    done = subprocess.run(
        [sys.executable, "-m", "edge", "init", "--config", str(tmp_path / "conf.d")],
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("Error: ") == 6
    found = config.load_config(tmp_path / "conf.d")
    assert (found.site.id, found.site.name, found.listen.ae_title, found.listen.port) == (
        "0067",
        "Clinic",
        "EDGE",
        11112,
    )
    assert found.destinations["archive"].confirm == "query"
    assert found.modalities["ct1"].hosts == ("10.10.4.21",)
