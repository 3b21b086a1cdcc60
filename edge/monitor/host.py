"""What Linux says of the machine: its clock, its disks, its boots. Reads only; what is not there is not known.

The clock: adjtimex(2); where a sandbox forbids it, chrony's word or systemd-timesyncd's mark. The disk: the errors that
ext4 counts, a degraded md array, a device that is offline, and smartctl where it is installed and allowed; partitions
and mappings are followed to what lies below them.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from edge.monitor.snapshot_model import Clock

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


def clock(root: Path = Path("/")) -> Clock:
    """Is the system's clock synchronized, and how far off is it known to be?"""
    told = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(told))
    if state < 0:
        return _chrony() or Clock(True if (root / TIMESYNCD).exists() else None)
    if state == TIME_ERROR or told.status & STA_UNSYNC:
        return Clock(synchronized=False)
    return Clock(True, told.offset / (1e9 if told.status & STA_NANO else 1e6))


def _chrony() -> Clock | None:
    program = shutil.which("chronyc")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-n", "-c", "tracking"], capture_output=True, text=True, timeout=CHRONY_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return understood(done.stdout)


def understood(tracking: str) -> Clock | None:
    """`chronyc -c tracking`: the fifth field is the offset of the system's clock, the last the leap status."""
    told = tracking.strip().split(",")
    try:
        return Clock(synchronized=False) if told[-1] == "Not synchronised" else Clock(True, float(told[4]))
    except (ValueError, IndexError):
        return None  # chrony does not run


def boot_id(root: Path = Path("/")) -> str:
    """Another after each boot (random(4))."""
    return (root / "proc/sys/kernel/random/boot_id").read_text().strip()


def booted_at(root: Path = Path("/")) -> float:
    """When the machine was started, by its present clock (proc(5), btime)."""
    lines = (root / "proc/stat").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("btime ")).split()[1])


# -- the disk ----------------------------------------------------------------------------------------------------------


def disk_faults(data_dir: Path, root: Path = Path("/")) -> Iterator[str]:
    """What the kernel says against the disk that holds a directory, a fault each, in words."""
    for name in devices(_number_of(data_dir), root):
        errors = _number(root / "sys/fs/ext4" / name / "errors_count")
        if errors:
            yield f"ext4 has counted {errors} errors on {name}"
        block = root / "sys/class/block" / name
        if _number(block / "md/degraded"):
            yield f"the array {name} runs without one of its disks"
        state = _text(block / "device/state")
        if state and state not in ("running", "live"):  # SCSI and ATA, NVMe
            yield f"the kernel says that {name} is {state}"


def smart_faults(data_dir: Path, root: Path = Path("/")) -> Iterator[str]:
    """What SMART says against it; may take seconds."""
    for name in devices(_number_of(data_dir), root):
        block = root / "sys/class/block" / name
        if not (block / "partition").exists() and (block / "device").exists():
            yield from _smart(name, root)


def _number_of(path: Path) -> str:
    device = os.stat(path).st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def devices(number: str, root: Path = Path("/")) -> list[str]:
    """The block device `major:minor` and those below it: the whole disk of a partition, the parts of a mapping."""
    try:
        place = (root / "sys/dev/block" / number).resolve(strict=True)
    except OSError:
        return []  # no block device of its own: btrfs, zfs, overlay
    found: list[str] = []
    below = [place]
    while below:
        place = below.pop(0)
        if place.name not in found:
            found.append(place.name)
            below += [each.resolve() for each in sorted((place / "slaves").glob("*"))]
            if (place / "partition").exists():
                below.append(place.parent)
    return found


def _smart(name: str, root: Path) -> Iterator[str]:
    program, device = shutil.which("smartctl"), root / "dev" / name
    if program is None or not os.access(device, os.R_OK):
        return
    try:
        done = subprocess.run(
            [program, "--health", "--json", str(device)], capture_output=True, timeout=SMART_SECONDS, check=False
        )
        passed = json.loads(done.stdout).get("smart_status", {}).get("passed", True)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return
    if not passed or done.returncode & SMART_FAILING:
        yield f"SMART says that {name} is failing"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0
