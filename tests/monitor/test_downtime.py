"""Downtimes: judged from what a run leaves behind, then a real daemon that is killed, crashes, stops."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from edge.monitor import host
from edge.monitor.downtime import CRASH, KILLED, MEMORY, ORDERLY_STOP, POWER, REBOOT, Marks, find_downtime, marks
from edge.monitor.live import Clock
from edge.store.database import Store
from edge.store.downtimes import begin_run
from tests.support.peers import Edge, wait_until

BOOT, OTHER = "b1", "b2"
RUN = Marks(alive_at=100.0, boot_id=BOOT)


@pytest.mark.parametrize(
    ("left", "boot", "expected"),
    [
        (Marks(), BOOT, None),  # the first start
        (RUN, BOOT, (100.0, KILLED, False)),
        (RUN, OTHER, (100.0, POWER, False)),
        (Marks(100.0, 101.0, BOOT), BOOT, (101.0, ORDERLY_STOP, True)),
        (Marks(100.0, 101.0, BOOT), OTHER, (101.0, REBOOT, False)),
        (Marks(100.0, 50.0, BOOT), BOOT, (100.0, KILLED, False)),  # stopped in order before, but not this time
        (Marks(100.0, None, BOOT, failed="ValueError at x"), BOOT, (100.0, CRASH, False)),
        (Marks(100.0, None, BOOT, fatal=True), BOOT, (100.0, CRASH, False)),
        (Marks(100.0, None, BOOT, result="oom-kill"), BOOT, (100.0, MEMORY, False)),
        (Marks(100.0, None, BOOT, result="watchdog"), BOOT, (100.0, CRASH, False)),
        (Marks(100.0, None, BOOT, result="signal"), BOOT, (100.0, KILLED, False)),
        (Marks(100.0, None, BOOT, result="oom-kill"), OTHER, (100.0, POWER, False)),
        (Marks(500.0, None, BOOT), BOOT, None),  # the clock was set back
    ],
)
def test_from_what_is_left_behind(left: Marks, boot: str, expected: tuple[float, str, bool] | None) -> None:
    found = find_downtime(left, boot, 200.0)
    assert (found and (found.began, found.why, found.planned)) == expected
    assert found is None or found.ended == 200.0


@pytest.mark.parametrize(
    ("ended", "result"),
    [
        ("", ""),
        ("signal KILL oom_kill 0\n", "signal"),
        ("signal KILL oom_kill 1\n", "oom-kill"),
        ("signal KILL\n", "signal"),
        ("oom-kill KILL oom_kill 1\n", "oom-kill"),
        ("watchdog ABRT oom_kill 1\n", "watchdog"),
    ],
)
def test_systemds_word_is_read_by_the_next_start(tmp_path: Path, ended: str, result: str) -> None:
    (tmp_path / "ended").write_text(ended)
    database = Store(tmp_path / "catalog.db")
    with database.reading() as conn:
        assert marks(conn, tmp_path, 1.0) == Marks()  # the first start
    database.write(lambda conn: begin_run(conn, None, BOOT, 100.0))
    with database.reading() as conn:
        assert marks(conn, tmp_path, 105.0) == Marks(105.0, None, BOOT, result=result)
    database.close()


def moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def told(edge: Edge) -> list[dict[str, Any]]:
    return [each for each in edge.api_status()["alerts"] if each["kind"] == "unscheduled-downtime"]


def test_a_kill_is_one_downtime_with_its_times_and_a_stop_is_none(tmp_path: Path, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge"))
    born = time.time() - edge.api_status()["uptime_seconds"]
    assert edge.api_status()["downtimes"] == []
    lock = edge.data_dir / "edge.lock"
    wait_until(lambda: lock.stat().st_mtime > born + 4, 20, "it has given signs of life for a while")
    edge.kill()
    killed = time.time()
    time.sleep(2.5)
    started = time.time()
    edge.start()
    back = time.time()
    (downtime,) = edge.api_status()["downtimes"]
    assert (downtime["why"], downtime["planned"]) == ("killed", False)
    assert born + 3 < moment(downtime["from"]) <= killed, "its last sign of life, not its first"
    assert int(started) <= moment(downtime["to"]) <= back
    (alert,) = wait_until(lambda: [each for each in told(edge) if each["id"]], 20, "the watch has it")
    assert alert["since"] == downtime["from"]
    assert edge.cli("alerts", "ack", str(alert["id"]), "--note", "we pulled the plug").returncode == 0
    wait_until(lambda: not told(edge), 20, "it is no remark any more")
    edge.restart()
    stop, _ = edge.api_status()["downtimes"]
    assert (stop["why"], stop["planned"]) == ("stopped", True)
    assert told(edge) == []
    listed = edge.cli("alerts", "list", "--all")
    assert listed.returncode == 0
    assert "unscheduled-downtime" in listed.stdout
    assert "we pulled the plug" in edge.cli("alerts", "show", str(alert["id"])).stdout


def test_a_fault_in_the_interpreter_is_a_crash(tmp_path: Path, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge"))
    edge.signal(signal.SIGSEGV)
    assert edge.process is not None
    edge.process.wait(60)
    edge.kill()  # what is left of its children
    edge.start()
    (downtime,) = edge.api_status()["downtimes"]
    assert downtime["why"] == "crash"


# The machine.


def test_this_machine_has_a_boot_a_clock_and_a_disk(tmp_path: Path) -> None:
    assert len(host.boot_id()) == 36
    assert host.read_clock().synchronized in (True, False, None)
    assert all(isinstance(fault, str) for fault in host.disk_faults(tmp_path))


@pytest.mark.parametrize(
    ("tracking", "expected"),
    [
        (
            "C0248F82,192.36.143.130,2,1763771000.1,-0.000123,0.0001,0.0002,1.0,0.0,0.01,0.01,0.001,64.2,Normal\n",
            Clock(True, -0.000123),
        ),
        ("7F7F0101,,10,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised\n", Clock(False)),
        ("506 Cannot talk to daemon\n", None),
        ("", None),
    ],
)
def test_what_chrony_says(tracking: str, expected: Clock | None) -> None:
    assert host.parse_tracking(tracking) == expected


def fake_disk(root: Path, **files: str) -> str:
    """sda1 on sda in a root of its own; `files` below /sys/class/block/sda1 or /sys/fs/ext4/sda1."""
    disk = root / "sys/devices/ata1/block/sda"
    (disk / "sda1").mkdir(parents=True)
    (disk / "sda1" / "partition").write_text("1\n")
    for folder in ("sys/dev/block", "sys/class/block", "sys/fs/ext4/sda1"):
        (root / folder).mkdir(parents=True)
    (root / "sys/dev/block/8:1").symlink_to(disk / "sda1")
    (root / "sys/class/block/sda").symlink_to(disk)
    (root / "sys/class/block/sda1").symlink_to(disk / "sda1")
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return "8:1"


@pytest.mark.parametrize(
    ("files", "faults"),
    [
        ({"sys__fs__ext4__sda1__errors_count": "0\n"}, []),
        ({"sys__fs__ext4__sda1__errors_count": "3\n"}, ["ext4 has counted 3 errors on sda1"]),
        ({"sys__class__block__sda__device__state": "running\n"}, []),
        ({"sys__class__block__sda__device__state": "offline\n"}, ["the kernel says that sda is offline"]),
        ({"sys__class__block__sda__md__degraded": "1\n"}, ["the array sda runs without one of its disks"]),
    ],
)
def test_what_the_kernel_says_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], faults: list[str]
) -> None:
    number = fake_disk(tmp_path, **files)
    monkeypatch.setattr(host, "device_number", lambda _: number)
    assert host.devices(number, tmp_path) == ["sda1", "sda"]
    assert list(host.disk_faults(tmp_path, tmp_path)) == faults
