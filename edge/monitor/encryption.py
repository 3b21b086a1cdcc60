"""Whether the file system that holds a path lies on encrypted block devices (dm-crypt, LUKS).

Read from sysfs: a device-mapper device of dm-crypt has a UUID that begins with `CRYPT-`. Limits: what encrypts below
the kernel (a self-encrypting drive, a hypervisor) or above it (fscrypt, a network share) is not seen from here.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

#: Devices upon devices, at most: LVM on RAID on partitions has three.
MOST_LAYERS = 12


class Encryption(Enum):
    """What can be said."""

    YES = "yes"
    NO = "no"  # no layer below is dm-crypt
    UNKNOWN = "unknown"  # it is not known on which devices it lies


def encryption_of(
    path: Path, sys: Path = Path("/sys"), mounts: Path = Path("/proc/self/mountinfo"), device: str | None = None
) -> Encryption:
    """Of the file system that holds `path`, or would hold it. `device`: its MAJOR:MINOR, where that is known."""
    number = device or _device_of(path, mounts)
    folder = sys / "dev" / "block" / number if number else None
    if folder is None or not folder.exists():
        return Encryption.UNKNOWN
    return Encryption.YES if _is_encrypted(folder.resolve(), MOST_LAYERS) else Encryption.NO


def _is_encrypted(device: Path, layers: int) -> bool:
    """Is the device dm-crypt's, or is every device that it is made of encrypted?"""
    uuid, slaves = device / "dm" / "uuid", device / "slaves"
    if uuid.exists() and uuid.read_text("ascii", "replace").startswith("CRYPT-"):
        return True
    below = [each.resolve() for each in slaves.iterdir()] if slaves.is_dir() else []
    return bool(below) and layers > 0 and all(_is_encrypted(each, layers - 1) for each in below)


def _device_of(path: Path, mounts: Path) -> str | None:
    """MAJOR:MINOR of the block device that holds a path; None where it is none (a network share, say)."""
    while not path.exists() and path != path.parent:
        path = path.parent
    number = path.stat().st_dev
    if os.major(number):
        return f"{os.major(number)}:{os.minor(number)}"
    source = _source_of(f"{os.major(number)}:{os.minor(number)}", mounts)  # btrfs has numbers of its own
    if source is None or not source.is_block_device():
        return None
    number = source.stat().st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


def _source_of(number: str, mounts: Path) -> Path | None:
    """The device that a mount names as its source (proc(5), mountinfo)."""
    for line in mounts.read_text("utf-8", "replace").splitlines():
        before, _, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        if len(fields) > 2 and len(more) > 1 and fields[2] == number and more[1].startswith("/dev/"):
            return Path(more[1])
    return None
