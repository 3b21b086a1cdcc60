"""The table of threads and processes is that of a gateway that runs; docs/design.md shows it."""

from __future__ import annotations

import runpy
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil

from edge.daemon.receivers import count_receivers
from edge.daemon.threads import OTHER_THREADS, PROCESSES, RECEIVER_THREADS, STEP_THREADS
from edge.worker import ThreadSpec
from tests.support.objects import ct_files
from tests.support.peers import REPOSITORY, Edge, StoreScp, free_port, http_get, routes_to, storescu, wait_until

#: Runs the gateway; the name of each thread that starts is a line of its log, with the process.
WATCHED = """
import os
import threading

start = threading.Thread.start

def noted(thread):
    os.write(2, f"thread {os.getpid()} {thread.name}\\n".encode())
    start(thread)

threading.Thread.start = noted
from edge.cli import main
main()
"""


class Watched(Edge):
    """The gateway, with a note of each thread that it starts."""

    def command(self) -> list[str]:
        script = self.directory / "watched.py"
        script.write_text(WATCHED)
        return [sys.executable, str(script), "run", "--config", str(self.config_dir)]

    def names(self, *pids: int) -> set[str]:
        """Of the threads that these processes have started."""
        lines = (line.split(" ", 2) for line in self.log.read_text().splitlines() if line.startswith("thread "))
        return {name for _, pid, name in lines if int(pid) in pids}


def _is_named(name: str, spec: ThreadSpec) -> bool:
    """Has a thread this specification's name? A pool appends "_" and a number, an executor "-"."""
    rest = name.removeprefix(spec.name)
    return rest != name and (not rest or rest[0] in " _-")


def test_the_table_has_all_threads_of_a_running_gateway(tmp_path: Path, running: ExitStack) -> None:
    archive = running.enter_context(StoreScp(tmp_path / "archive"))
    config = (
        routes_to(archive, confirm="query")
        + f"""
[hl7]
host = "127.0.0.1"
port = {free_port()}
[feed.his]
hosts = ["127.0.0.1"]
[relay.vna]
host = "127.0.0.1"
port = 9
"""
        + """
[heartbeat]
url = "https://127.0.0.1:9/"
key = "heartbeat.key"
[audit]
host = "127.0.0.1"
port = 9
transport = "udp"
"""
    )
    edge = Watched(tmp_path / "edge", config)
    key = edge.config_dir / "heartbeat.key"
    key.write_text("0" * 64)
    key.chmod(0o600)
    running.enter_context(edge)
    storescu(ct_files(tmp_path / "ct", 2, 10_000), edge.port)
    wait_until(lambda: len(archive.files()) == 2, 20, "both are at the archive")
    edge.status()
    http_get(edge.url("/"))
    children = {child.pid: child.name() for child in psutil.Process(edge.pid).children(recursive=True)}
    names, theirs = edge.names(edge.pid), edge.names(*children)
    unknown = {name for name in names if not any(_is_named(name, spec) for spec in (*STEP_THREADS, *OTHER_THREADS))}
    assert not unknown, "threads that edge/daemon/threads.py does not declare"
    idle = {spec.name for spec in STEP_THREADS if not any(_is_named(name, spec) for name in names)}
    assert not idle, "workers that never start"
    assert {next(spec.name for spec in RECEIVER_THREADS if _is_named(name, spec)) for name in theirs} == {
        spec.name for spec in RECEIVER_THREADS
    }
    asked_for = {spec.name for spec in PROCESSES[:3]}
    assert set(children.values()) == asked_for, "others, nothing has asked for"
    assert list(children.values()).count("edge-receiver") == count_receivers()


def test_the_document_shows_the_table() -> None:
    program = runpy.run_path(str(REPOSITORY / "packaging" / "threads"))
    text = (REPOSITORY / "docs" / "design.md").read_text("utf-8")
    assert program["document"](text) == text, "run packaging/threads"
