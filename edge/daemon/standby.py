"""Two machines, one block device: whether its file system lets only one of them mount it.

ext4's multi-mount protection (MMP) writes a mark into the file system every few seconds, and refuses a mount while
another machine does so (ext4(5); INCOMPAT_MMP 0x0100 of the superblock). With `[site] standby = true` the start is
refused on a file system without it: nothing else would keep two gateways from writing the same data.

The superblock is readable for root alone. The service's drop-in (systemd/standby.conf) has root note what it says in
the runtime directory, for this boot and this device; the gateway reads that.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from edge.daemon.start import StartError
from edge.monitor.host import boot_id, device_number, find_mount

#: Superblock of ext2, 3 and 4: where it begins, its magic, and its incompatible features (fs/ext4/ext4.h).
SUPERBLOCK_AT, MAGIC_AT, MAGIC, INCOMPAT_AT, INCOMPAT_MMP = 1024, 0x38, 0xEF53, 0x60, 0x0100
MARK = "mount-protection"


@dataclass(frozen=True, slots=True)
class MountProtection:
    """What is known of the file system of a directory. `is_protected` None: the device may not be read."""

    device: str
    kind: str
    is_protected: bool | None


def protection_of(path: Path) -> MountProtection:
    """Read the superblock of the file system that holds a directory."""
    number = device_number(path)
    _, kind = find_mount(path)
    name = device_name(number)
    if kind != "ext4" or name is None:
        return MountProtection(name or number, kind, False)
    try:
        with Path(name).open("rb") as device:
            device.seek(SUPERBLOCK_AT)
            return MountProtection(name, kind, has_protection(device.read(1024)))
    except OSError:
        return MountProtection(name, kind, None)


def has_protection(superblock: bytes) -> bool:
    """Whether a superblock of ext4 has INCOMPAT_MMP."""
    if len(superblock) < INCOMPAT_AT + 4:
        return False
    (magic,) = struct.unpack_from("<H", superblock, MAGIC_AT)
    (incompatible,) = struct.unpack_from("<I", superblock, INCOMPAT_AT)
    return magic == MAGIC and bool(incompatible & INCOMPAT_MMP)


def device_name(number: str) -> str | None:
    """The device file of a block device; None where there is none, as of NFS or tmpfs."""
    try:
        lines = Path(f"/sys/dev/block/{number}/uevent").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((f"/dev/{line.partition('=')[2]}" for line in lines if line.startswith("DEVNAME=")), None)


def note_protection(path: Path, runtime: Path) -> MountProtection:
    """Root, before the start: note what the superblock says. Raises OSError."""
    found = protection_of(path)
    (runtime / MARK).write_text(f"{device_number(path)} {boot_id()} {'mmp' if found.is_protected else '-'}\n")
    (runtime / MARK).chmod(0o644)
    return found


def noted_protection(path: Path, runtime: Path | None) -> bool | None:
    """What was noted of this device in this boot; None: nothing."""
    try:
        number, boot, word = (runtime / MARK).read_text("ascii").split() if runtime else ("", "", "")
    except (OSError, ValueError):
        return None
    return word == "mmp" if (number, boot) == (device_number(path), boot_id()) else None


def require_protection(path: Path) -> None:
    """Raises StartError where a second machine could mount the file system as well, or where that is not known."""
    found = protection_of(path)
    runtime = os.environ.get("RUNTIME_DIRECTORY")
    is_protected = found.is_protected
    if is_protected is None:
        is_protected = noted_protection(path, Path(runtime) if runtime else None)
    if is_protected:
        return
    if is_protected is None:
        raise StartError(
            f"site.standby: whether {found.device} has multi-mount protection is not known; install the drop-in"
            " standby.conf of /usr/share/doc/edge-gateway"
        )
    remedy = (
        f"`tune2fs -O mmp {found.device}` while it is unmounted" if found.kind == "ext4" else "use ext4 with -O mmp"
    )
    raise StartError(
        f"site.standby: the file system of {path} ({found.kind} on {found.device}) has no multi-mount protection, so a"
        f" second machine could mount it, too; {remedy}"
    )
