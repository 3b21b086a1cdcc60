"""The kernel's own testimony: what the daemon has synced by the time it answers a C-STORE."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.support.objects import ct_files
from tests.support.peers import Edge, requires, storescu, wait_until

ROUTE = '[destination.archive]\nae_title = "NOBODY"\nhost = "127.0.0.1"\nport = 1\n[route.all]\nto = ["archive"]\n'
#: What a traced call means, by its text; the first that fits.
STEPS = {
    r"pwritev2\(\d+<.*/journal/\d+\.seg>.*RWF_DSYNC": "journal",
    r"(open|openat|rename|renameat2?|unlink)\(.*(/journal/|/spool/)": "name",
    r"(writev|write)\(\d+<.*/spool/.*\.dcm>": "write file",
    r"syncfs\(\d+<": "sync spool",
    r"(fsync|fdatasync)\(\d+<.*catalog\.db-wal>": "commit",
    r"sendto\(\d+<TCP": "answer",
}


def ended_calls(trace: str) -> Iterator[str]:
    """The traced calls in the order in which they ended; one that another thread interrupted is put together."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        if "<unfinished ...>" in call:
            begun[pid] = call.partition("<unfinished ...>")[0]
        elif "resumed>" in call:
            yield begun.pop(pid, "") + call.partition("resumed>")[2]
        else:
            yield call


def steps(trace: str) -> list[str]:
    """The traced calls as steps, in the order in which they ended."""
    named = (
        next((step for pattern, step in STEPS.items() if re.search(pattern, call)), "") for call in ended_calls(trace)
    )
    return [step for step in named if step]


def traced_pids(edge: Edge, tracer: subprocess.Popen[bytes]) -> bool:
    return all(f"TracerPid:\t{tracer.pid}" in Path(f"/proc/{pid}/status").read_text() for pid in pids_of(edge))


def pids_of(edge: Edge) -> list[int]:
    """The daemon and its receiving processes."""
    daemon = psutil.Process(edge.pid)
    return [daemon.pid, *(each.pid for each in daemon.children(recursive=True))]


def test_the_record_is_durable_before_the_answer_and_its_file_before_its_rows(
    tmp_path: Path, running: ExitStack
) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE))
    (first, second) = ct_files(tmp_path / "ct", 2, 100_000)
    storescu([first], edge.port)  # makes the hour's directory
    edge.settle()
    log = tmp_path / "strace"
    calls = "trace=write,writev,pwritev2,fsync,fdatasync,syncfs,open,openat,rename,renameat,renameat2,unlink,sendto"
    command = [requires("strace"), "-f", "-yy", "-s", "0", "-e", calls, "-e", "signal=none", "-o", str(log)]
    command += [f"--attach={pid}" for pid in pids_of(edge)]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: traced_pids(edge, tracer), 10, "strace is attached")
        storescu([second], edge.port)
        edge.settle()
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(60)
    seen = steps(log.read_text())
    start = seen.index("journal")
    assert seen[:start].count("answer") == 1, f"the association's own, and no other: {seen}"
    before = seen[start : seen.index("answer", start)]
    assert before.count("journal") == 1, seen
    # Housekeeping may commit at any moment, for instance who has called.
    behind = [step for step in seen[start:] if step not in ("answer", "name", "commit")]
    assert behind[:3] == ["journal", "write file", "sync spool"], seen
    assert "commit" in seen[seen.index("sync spool", start) :], seen
