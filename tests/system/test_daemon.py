"""The daemon as a process among others: its memory, its lock, its exit codes."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from tests.support.objects import ct_files
from tests.support.peers import ENVIRONMENT, Edge, StoreScp, free_port, routes_to, storescu, wait_until
from tests.support.scripted import ScriptedScp, never_answer


def test_no_pixel_code_is_loaded(tmp_path: Path, running: ExitStack) -> None:
    archive = running.enter_context(StoreScp(tmp_path / "archive"))
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive), forked=False))
    storescu(ct_files(tmp_path / "ct", 2, 10_000), edge.port)
    wait_until(lambda: len(archive.files()) == 2, 20, "both are at the archive")
    processes = [edge.pid, *(each.pid for each in psutil.Process(edge.pid).children(recursive=True))]
    assert len(processes) > 2  # the daemon, the fork server, those that receive
    for pid in processes:
        assert "numpy" not in Path(f"/proc/{pid}/maps").read_text()


def test_it_takes_little_memory_when_idle(tmp_path: Path, running: ExitStack) -> None:
    """At most 90 MB, as its share of what is in memory (PSS), with all processes that it has started."""
    assert memory_of(running.enter_context(Edge(tmp_path / "edge", forked=False))) <= 90_000_000


def test_each_service_takes_little_more(tmp_path: Path, running: ExitStack) -> None:
    """With the processes that answer queries, HL7 and DICOMweb."""
    services = f"[query]\n[dicomweb]\nport = {free_port()}\n[hl7]\nport = {free_port()}\n"
    assert memory_of(running.enter_context(Edge(tmp_path / "edge", services, forked=False))) <= 100_000_000


def memory_of(edge: Edge) -> int:
    processes = [psutil.Process(edge.pid), *psutil.Process(edge.pid).children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes)


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


def _destinations(ports: dict[str, int], associations: int) -> str:
    return (
        "".join(
            f'[destination.{name}]\nae_title = "A"\nhost = "127.0.0.1"\nport = {port}\nassociations = {associations}\n'
            for name, port in ports.items()
        )
        + f"[route.all]\nto = {json.dumps(list(ports))}\n"
    )


def test_a_reload_beside_silent_peers_holds_up_nobody(tmp_path: Path, running: ExitStack) -> None:
    """Destinations that never answer are changed while something is under way to each; then the gateway is stopped."""
    peers = {f"d{n}": running.enter_context(ScriptedScp([never_answer])) for n in range(3)}
    ports = {name: peer.port for name, peer in peers.items()}
    edge = running.enter_context(Edge(tmp_path / "edge", _destinations(ports, 1)))
    storescu(ct_files(tmp_path / "ct", 1, 1000), edge.port)
    wait_until(lambda: all(peer.stores for peer in peers.values()), 10, "something is under way to each")
    edge.configure(_destinations(ports, 2) + '[modality.new]\nae_title = "NEW"\n')
    edge.reload()
    wait_until(lambda: "has been read again" in edge.output(), 5, "the configuration is in use")
    assert [(peer.open, peer.connections) for peer in peers.values()] == [(1, 1)] * 3, "nobody was waited for"
    lock = edge.data_dir / "edge.lock"
    before = lock.stat().st_mtime
    wait_until(lambda: lock.stat().st_mtime > before + 1, 5, "its clock ticks")
    assert edge.api_status()["state"] == "running"
    edge.signal(signal.SIGTERM)
    wait_until(lambda: not _listens(edge.port), 5, "nobody new is taken")
    assert all(peer.open for peer in peers.values()), "before anybody was waited for"


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_ready_is_said_when_a_reload_is_done(
    tmp_path: Path, running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = running.enter_context(closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(60)
    monkeypatch.setitem(ENVIRONMENT, "NOTIFY_SOCKET", str(tmp_path / "notify"))
    edge = running.enter_context(Edge(tmp_path / "edge"))
    edge.configure('[modality.new]\nae_title = "NEW"\n')
    edge.reload()
    for word in ("RELOADING=1", "READY=1"):
        while word.encode() not in manager.recv(4096):
            pass
    assert "has been read again" in edge.output()
