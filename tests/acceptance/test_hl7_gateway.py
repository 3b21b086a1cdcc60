"""HL7 through a whole gateway, with senders and a receiver that others have written, outages and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.hl7 import MllpClient, ScriptedReceiver, acknowledge, merge, order, update
from tests.support.objects import ct_files
from tests.support.peers import ENVIRONMENT, REPOSITORY, Edge, absent, free_port, requires, storescu, wait_until

PACKAGES = ("simple-hl7@3.3.0", "node-hl7-client@4.0.0", "node-hl7-server@2.5.0")
SCRIPT = REPOSITORY / "tests" / "support" / "hl7_peers.js"


@cache
def node_modules() -> Path:
    """Where the peers from npm are; they are installed below build/ when they are first asked for."""
    folder = REPOSITORY / "build" / "node"
    if not all((folder / "node_modules" / each.split("@")[0]).is_dir() for each in PACKAGES):
        folder.mkdir(parents=True, exist_ok=True)
        command = [requires("npm"), "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", *PACKAGES]
        if subprocess.run(command, capture_output=True, timeout=180, check=False).returncode:
            absent(f"{', '.join(PACKAGES)} from the npm registry")
    return folder / "node_modules"


def node(*arguments: str) -> subprocess.Popen[str]:
    environment = {**ENVIRONMENT, "NODE_PATH": str(node_modules())}
    command = [requires("node"), str(SCRIPT), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


class Hl7Gateway(Edge):
    """A gateway with a feed and a relay."""

    def __init__(self, directory: Path) -> None:
        self.hl7_port, self.relay_port = free_port(), free_port()
        config = f"""
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 1
[route.everything]
to = ["archive"]
[hl7]
host = "127.0.0.1"
port = {self.hl7_port}
[feed.his]
hosts = ["127.0.0.1"]
authority = "MTF0067"
[relay.vna]
host = "127.0.0.1"
port = {self.relay_port}
messages = ["ADT"]
answer = "10s"
"""
        super().__init__(directory, config)

    def ask(self, *messages: bytes) -> list[str]:
        with MllpClient(self.hl7_port) as client:
            return [each.code for message in messages for each in client.ask(message)]

    def json(self, *args: str) -> Any:
        done = self.cli(*args, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def hl7_process(self) -> int:
        """The process that receives HL7."""
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                parent = int((path.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
                grandparent = int(Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[1])
                if path.read_text().strip() == "edge-hl7" and self.process.pid in (parent, grandparent):
                    return int(path.parent.name)
            except (OSError, ValueError, IndexError):
                continue
        return 0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hl7Gateway]:
    with Hl7Gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


def test_senders_from_npm(gateway: Hl7Gateway) -> None:
    """simple-hl7 and node-hl7-client, neither of which writes a CR behind FS."""
    for kind, control_id in (("simple", "SIMPLE1"), ("client", "NODE1")):
        sender = node(kind, str(gateway.hl7_port))
        assert sender.communicate(timeout=60)[0].strip() == f"ACK AA {control_id}"
    found = {each["control_id"]: each["state"] for each in gateway.json("hl7", "list")}
    assert found == {"SIMPLE1": "applied", "NODE1": "applied"}


def test_a_shell_sends(gateway: Hl7Gateway, tmp_path: Path) -> None:
    (tmp_path / "message").write_bytes(b"\x0b" + update("SHELL1", "B1", "TEST^SHELL") + b"\x1c\r")
    script = f'exec 3<>/dev/tcp/127.0.0.1/{gateway.hl7_port}; cat "$1" >&3; '
    script += r"""IFS= read -r -t 60 -d $'\x1c' answer <&3; printf %s "$answer" """
    done = subprocess.run(["bash", "-c", script, "-", str(tmp_path / "message")], capture_output=True, check=False)
    assert b"MSA|AA|SHELL1" in done.stdout


def test_the_relay_waits_through_an_outage(gateway: Hl7Gateway) -> None:
    """Nothing listens at first; then node-hl7-server takes all in order. Its ACKs have the control ID ACK."""
    before = [each["control_id"] for each in gateway.json("hl7", "list", "--relay")]
    assert before == ["SIMPLE1", "NODE1", "SHELL1"]
    server = node("server", str(gateway.relay_port))
    try:
        assert server.stdout is not None
        assert gateway.ask(update("LATER1", "B1", "TEST^LATER")) == ["AA"]
        lines = iter(lambda: server.stdout.readline().strip(), "MESSAGE LATER1")  # type: ignore[union-attr]
        seen = dict.fromkeys(lines)  # the package reports a message again that ends without CR
        assert list(seen) == ["LISTENS", *(f"MESSAGE {each}" for each in before)]
        wait_until(lambda: not gateway.json("hl7", "list", "--relay"), 20, "the relay's queue is empty")
    finally:
        server.kill()
        server.communicate()


def test_status_orders_and_images(gateway: Hl7Gateway, tmp_path: Path) -> None:
    assert gateway.ask(order("ORDER1", "NW", "7001", "B1", "2.999.7.1"), merge("MERGE1", "B1", "C1")) == ["AA", "AA"]
    given = {
        "PatientID": "B1",
        "PatientName": "TEST^SHELL",
        "AccessionNumber": "A7001",
        "StudyInstanceUID": "2.999.7.1",
    }
    storescu(ct_files(tmp_path / "ct", 2, 1024, **given), gateway.port)
    (found,) = gateway.json("orders", "list")
    assert (found["accession"], found["patient_id"]) == ("A7001", "C1")
    wait_until(lambda: gateway.status()["identity"]["matched_share"] == 1.0, 20, "the images are matched")
    hl7 = gateway.status()["hl7"]
    assert (hl7["received"], hl7["applied"], hl7["parked"]) == (6, 6, 0)
    assert gateway.cli("check").returncode == 0


def test_killed_receiving_process_is_replaced_and_loses_nothing(gateway: Hl7Gateway) -> None:
    """What was answered before the kill is applied once, and before what comes after it."""
    for turn in range(3):
        assert gateway.ask(update(f"KILL{turn}", "K1", f"TURN^T{turn}")) == ["AA"]
        pid = gateway.hl7_process()
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: gateway.hl7_process() not in (0, pid), 20, "another process receives")  # type: ignore[misc]
    assert gateway.ask(update("KILL3", "K1", "TURN^T3"), order("KILL4", "NW", "7002", "K1")) == ["AA", "AA"]
    (found,) = gateway.json("orders", "list", "--search", "A7002")
    assert found["patient_name"] == "TEST^ORDER"
    repeats = {each["control_id"]: each["repeats"] for each in gateway.json("hl7", "list", "--limit", "5")}
    assert repeats == {f"KILL{turn}": 0 for turn in range(5)}


def test_killed_gateway_applies_each_acknowledged_message_once(gateway: Hl7Gateway) -> None:
    """kill -9 right behind the answers; the relay gets each, in order, after the next start."""
    with ScriptedReceiver(acknowledge, gateway.relay_port) as receiver:
        wait_until(lambda: not gateway.json("hl7", "list", "--relay"), 30, "the relay's queue is empty")
        receiver.received.clear()
        for turn in range(3):
            sent = [f"G{turn}.{number}" for number in range(20)]
            assert set(gateway.ask(*(update(each, f"G{turn}", f"TURN^{each}") for each in sent))) == {"AA"}
            gateway.kill()
            gateway.start()
            found = gateway.json("hl7", "list", "--limit", "20")
            assert [each["control_id"] for each in found] == sent[::-1]
            assert {each["state"] for each in found} == {"applied"}
        expected = [f"G{turn}.{number}" for turn in range(3) for number in range(20)]
        wait_until(lambda: len(set(map(_control_id, receiver.received))) == 60, 30, "the relay has taken all")
        assert list(dict.fromkeys(map(_control_id, receiver.received))) == expected


def _control_id(message: bytes) -> str:
    return message.split(b"|")[9].decode()
