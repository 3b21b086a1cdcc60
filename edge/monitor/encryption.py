"""Disk encryption: is the file system of a path on encrypted block devices (dm-crypt, LUKS)?

Read from sysfs: a device-mapper device of dm-crypt has a UUID that begins with `CRYPT-`. Limits: what encrypts below
the kernel (a self-encrypting drive, a hypervisor) or above it (fscrypt, a network share) cannot be seen here.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from edge.monitor.host import device_number, layers_below

#: Devices upon devices, at most: LVM on RAID on partitions has three.
MOST_LAYERS = 12


class Encryption(Enum):
    """The answer of `encryption_of`."""

    YES = "yes"
    NO = "no"  # no layer below is dm-crypt
    UNKNOWN = "unknown"  # the devices below are unknown


def encryption_of(path: Path, sys: Path = Path("/sys"), device: str | None = None) -> Encryption:
    """The encryption of the file system that holds `path`, or would hold it. `device`: its MAJOR:MINOR, where known."""
    folder = sys / "dev" / "block" / (device or device_number(path))
    if not folder.exists():
        return Encryption.UNKNOWN
    return Encryption.YES if _is_encrypted(folder.resolve(), MOST_LAYERS) else Encryption.NO


def _is_encrypted(device: Path, layers: int) -> bool:
    """Is the device dm-crypt's, or is every device that it is made of encrypted?"""
    uuid = device / "dm" / "uuid"
    if uuid.exists() and uuid.read_text("ascii", "replace").startswith("CRYPT-"):
        return True
    below = layers_below(device)
    return bool(below) and layers > 0 and all(_is_encrypted(each, layers - 1) for each in below)
