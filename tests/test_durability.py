"""The kernel's own testimony: what the daemon has synced by the time it answers a C-STORE."""

from __future__ import annotations

import re
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.objects import ct_files
from tests.peers import Edge, requires, storescu, wait_until

ROUTE = '[destination.archive]\nae_title = "NOBODY"\nhost = "127.0.0.1"\nport = 1\n[route.all]\nto = ["archive"]\n'
#: What a traced call means, by its text; the first that fits.
STEPS = {
    r"(writev|write)\(\d+<.*\.part>": "write file",
    r"fsync\(\d+<.*\.part>": "sync file",
    r"rename(at|at2)?\(.*\.part.*\.dcm": "rename",
    r"fsync\(\d+<.*/spool/\d+>": "sync directory",
    r"(fsync|fdatasync)\(\d+<.*catalog\.db-wal>": "commit",
    r"sendto\(\d+<(socket|TCP)": "answer",
}


def steps(trace: str) -> list[str]:
    """The traced calls as steps, in the order in which they ended; repetitions folded."""
    found: list[str] = []
    for line in trace.splitlines():
        if "unfinished" in line:
            continue
        for pattern, step in STEPS.items():
            if re.search(pattern, line) and (not found or found[-1] != step):
                found.append(step)
                break
    return found


def traced_pids(edge: Edge, tracer: subprocess.Popen[bytes]) -> bool:
    status = Path(f"/proc/{edge.pid}/status").read_text()
    return f"TracerPid:\t{tracer.pid}" in status


def test_file_name_and_rows_are_durable_before_the_answer(tmp_path: Path, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE))
    (first, second) = ct_files(tmp_path / "ct", 2, 100_000)
    storescu([first], edge.port)  # makes the hour's directory
    log = tmp_path / "strace"
    calls = "trace=write,writev,fsync,fdatasync,rename,renameat,renameat2,sendto"
    command = [requires("strace"), "-f", "-y", "-s", "0", "-e", calls, "-e", "signal=none", "-o", str(log)]
    tracer = subprocess.Popen([*command, "-p", str(edge.pid)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: traced_pids(edge, tracer), 10, "strace is attached")
        storescu([second], edge.port)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    seen = steps(log.read_text())
    promise = ["write file", "sync file", "rename", "sync directory", "commit", "answer"]
    start = seen.index("write file")
    assert [step for step in seen[start:] if step in promise][: len(promise)] == promise, seen
