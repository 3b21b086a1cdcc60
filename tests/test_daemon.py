"""The daemon as a process among others: its memory, its lock, its exit codes."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from tests.objects import ct_files
from tests.peers import ENVIRONMENT, Edge, StoreScp, routes_to, storescu, wait_until


def test_no_pixel_code_is_loaded(tmp_path: Path, running: ExitStack) -> None:
    archive = running.enter_context(StoreScp(tmp_path / "archive"))
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    storescu(ct_files(tmp_path / "ct", 2, 10_000), edge.port)
    wait_until(lambda: len(archive.files()) == 2, 20, "both are at the archive")
    assert "numpy" not in Path(f"/proc/{edge.pid}/maps").read_text()


def test_it_takes_little_memory_when_idle(tmp_path: Path, running: ExitStack) -> None:
    """At most 90 MB, as its share of what is in memory (PSS), with all processes that it has started."""
    edge = running.enter_context(Edge(tmp_path / "edge"))
    processes = [psutil.Process(edge.pid), *psutil.Process(edge.pid).children(recursive=True)]
    assert sum(process.memory_full_info().pss for process in processes) <= 90_000_000


def test_one_gateway_for_one_data_directory(tmp_path: Path, running: ExitStack) -> None:
    first = running.enter_context(Edge(tmp_path / "first"))
    done = Edge(tmp_path / "second", data_dir=first.data_dir).cli("run")
    assert done.returncode == 1
    assert "another gateway runs" in done.stderr


def test_a_taken_port_is_named(tmp_path: Path, running: ExitStack) -> None:
    first = running.enter_context(Edge(tmp_path / "first"))
    done = Edge(tmp_path / "second", port=first.port).cli("run")
    assert done.returncode == 1
    assert "listen" in done.stderr


def test_a_disk_that_fails_at_the_start_is_named_in_a_line(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "edge")
    (edge.data_dir / "spool").write_text("a file where a directory is to be")
    done = edge.cli("run")
    assert done.returncode == 1
    assert "the gateway cannot start: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_configuration_ends_with_2(tmp_path: Path) -> None:
    done = Edge(tmp_path / "edge", "[listen]\nae_titel = 1\n").cli("run")
    assert done.returncode == 2
    assert '10-test.toml:2: listen.ae_titel: unknown key; did you mean "ae_title"?' in done.stderr


def test_it_stops_in_order(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "edge").start()
    assert edge.stop() == 0
    assert "stopped in order" in edge.output()


def test_the_state_never_lags_behind_its_alerts(tmp_path: Path, running: ExitStack) -> None:
    """From the start on a disk that is too full: not "running" until the next tick finds out."""
    edge = Edge(tmp_path / "edge", "[storage]\nwarn = 0.00001\nrefuse = 0.00002\n")
    running.callback(edge.kill)
    edge.start(until="/healthz")
    told = wait_until(lambda: (seen := edge.api_status())["state"] != "starting" and seen, 10, "it has started")
    assert told["state"] == "refusing", [each["kind"] for each in told["alerts"]]


def _is_full(sock: socket.socket, address: str) -> bool:
    """Is there no room for one more datagram?"""
    try:
        sock.sendto(b"x", address)
    except BlockingIOError:
        return True
    return False


def test_a_service_manager_that_does_not_listen_stops_nothing(
    tmp_path: Path, running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = running.enter_context(closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
    manager.bind(str(tmp_path / "notify"))
    other = running.enter_context(closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
    other.setblocking(False)
    while not _is_full(other, str(tmp_path / "notify")):
        pass
    monkeypatch.setitem(ENVIRONMENT, "NOTIFY_SOCKET", str(tmp_path / "notify"))
    edge = running.enter_context(Edge(tmp_path / "edge"))
    lock = edge.data_dir / "edge.lock"
    before = lock.stat().st_mtime
    wait_until(lambda: lock.stat().st_mtime > before + 1, 10, "its clock ticks")
