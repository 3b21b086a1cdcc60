"""The facts of the machine that Linux reports: its clock, its mounts, its disks, its boots. Reads only; None: unknown.

psutil gives the mounts, and others' processes. It is not right for: the clock's state, the errors of disks and their
layers (not in psutil); inodes and the read-only flag (it leaves both out of disk_usage: see statvfs(2) in
edge.monitor.health, edge.errors.hindrance, edge.store); the boot (its boot_time() changes when the clock is set).
It is imported where it is used: a command that asks for nothing of it starts without it.

The clock: adjtimex(2); where a sandbox forbids it, chrony or the mark of systemd-timesyncd. The disk: the errors that
ext4 counts, a degraded md array, a device that is offline, and smartctl where it is installed and allowed, for the
device of the file system and each device below it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from edge.monitor.live import Clock

ROOT = Path("/")
#: linux/timex.h: the clock is not synchronized; the offset is in nanoseconds.
STA_UNSYNC, STA_NANO, TIME_ERROR = 0x0040, 0x2000, 5
TIMESYNCD = Path("run/systemd/timesync/synchronized")
SMART_SECONDS, CHRONY_SECONDS = 20.0, 5.0
#: smartctl(8), exit status: the disk is failing; a prefail attribute is at its threshold.
SMART_FAILING = 0b11000


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def read_clock() -> Clock:
    """Read whether the system's clock is synchronized, and its estimated error."""
    timex = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        tracking = _output_of("chronyc", "-n", "-c", "tracking", seconds=CHRONY_SECONDS)
        return parse_tracking(tracking[1]) or Clock(True if (ROOT / TIMESYNCD).exists() else None)
    if state == TIME_ERROR or timex.status & STA_UNSYNC:
        return Clock(synchronized=False)
    return Clock(True, timex.offset / (1e9 if timex.status & STA_NANO else 1e6))


def _output_of(name: str, *arguments: str, seconds: float) -> tuple[int, str]:
    """Run a program of the system; its exit status and output, (0, "") where it is absent or does not end in time."""
    program = shutil.which(name)
    if program is None:
        return 0, ""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0, ""
    return done.returncode, done.stdout


def parse_tracking(tracking: str) -> Clock | None:
    """Parse `chronyc -c tracking`: the fifth field is the clock's offset, the last the leap status."""
    fields = tracking.strip().split(",")
    try:
        return Clock(synchronized=False) if fields[-1] == "Not synchronised" else Clock(True, float(fields[4]))
    except (ValueError, IndexError):
        return None  # chrony does not run


def boot_id() -> str:
    """Another after each boot (random(4))."""
    return (ROOT / "proc/sys/kernel/random/boot_id").read_text().strip()


# -- the file system ---------------------------------------------------------------------------------------------------


def find_mount(path: Path) -> tuple[str, str]:
    """Device and file system type of the mount that holds a path, or would hold it; ("", "unknown") without one."""
    import psutil  # noqa: PLC0415

    place = path.resolve()
    holding = [each for each in psutil.disk_partitions(all=True) if place.is_relative_to(each.mountpoint)]
    # The longest mount point; of several mounts on one point, the last hides the others.
    found = max(reversed(holding), key=lambda each: len(each.mountpoint), default=None)
    return (found.device, found.fstype) if found else ("", "unknown")


def device_number(path: Path) -> str:
    """MAJOR:MINOR of the device that holds a path, or would hold it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    number = path.stat().st_dev
    if not os.major(number):  # btrfs has numbers of its own
        device = Path(find_mount(path)[0])
        number = device.stat().st_rdev if device.is_block_device() else number
    return f"{os.major(number)}:{os.minor(number)}"


def layers_below(device: Path) -> list[Path]:
    """The devices that a device of sysfs is made of: the parts of a mapping or an array."""
    return [each.resolve() for each in sorted((device / "slaves").glob("*"))]


def devices(number: str, root: Path = ROOT) -> list[str]:
    """The block device `major:minor` and those below it: the whole disk of a partition, the parts of a mapping."""
    try:
        below = [(root / "sys/dev/block" / number).resolve(strict=True)]
    except OSError:
        return []  # a network share, zfs, overlay
    found: list[str] = []
    while below:
        device = below.pop(0)
        if device.name not in found:
            found.append(device.name)
            below += layers_below(device)
            if (device / "partition").exists():
                below.append(device.parent)
    return found


# -- the disk ----------------------------------------------------------------------------------------------------------


def disk_faults(data_dir: Path, root: Path = ROOT) -> Iterator[str]:
    """The faults that the kernel reports of the disk that holds a directory, one text each."""
    for name in devices(device_number(data_dir), root):
        errors = _number_in(root / "sys/fs/ext4" / name / "errors_count")
        if errors:
            yield f"ext4 has counted {errors} errors on {name}"
        block = root / "sys/class/block" / name
        if _number_in(block / "md/degraded"):
            yield f"the array {name} runs without one of its disks"
        state = _text_in(block / "device/state")
        if state and state not in ("running", "live"):  # SCSI and ATA, NVMe
            yield f"the kernel says that {name} is {state}"


def smart_faults(data_dir: Path) -> Iterator[str]:
    """The faults that SMART reports of it; may take seconds."""
    for name in devices(device_number(data_dir)):
        block, device = ROOT / "sys/class/block" / name, ROOT / "dev" / name
        if (block / "partition").exists() or not (block / "device").exists() or not os.access(device, os.R_OK):
            continue
        status, output = _output_of("smartctl", "--health", "--json", str(device), seconds=SMART_SECONDS)
        try:
            passed = json.loads(output).get("smart_status", {}).get("passed", True)
        except ValueError:
            continue
        if not passed or status & SMART_FAILING:
            yield f"SMART says that {name} is failing"


def _text_in(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number_in(path: Path) -> int:
    text = _text_in(path)
    return int(text) if text.isdigit() else 0
