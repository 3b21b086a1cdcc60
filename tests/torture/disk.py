"""A small disk of our own, which can lose its power: a file, a loop device, ext4 or xfs.

    with Disk(directory, "xfs") as disk:
        ... disk.path ...
        disk.lose_power()   # what was not synced is gone
        disk.again()

The cut is FS_IOC_SHUTDOWN without flushing the log: the file system dies as if the power went. Whoever writes there
must stand still (SIGSTOP): a sync that is under way may else return 0 as the file system dies, and be a false loss.
Needs root and loop devices; all is unmounted at the end.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
from pathlib import Path
from types import TracebackType

from tests.support.peers import wait_until
from tests.torture.row import Lacking

# <sched.h>, <sys/mount.h>
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 1 << 18
# xfs_fs.h, ext4.h
FS_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
MIB = 1 << 20


def mounts_of_our_own() -> None:
    """From now on nobody else sees what this process mounts.

    Who copies our mounts (a container that boots meanwhile) would else keep a dead file system alive.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.unshare(CLONE_NEWNS) == 0:
        libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)


class Disk:
    """See the module's docstring. `path` is where it is mounted."""

    def __init__(self, directory: Path, kind: str = "ext4", mib: int = 512, options: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.kind, self.image, self.path = kind, directory / f"{kind}.img", directory / kind
        self._options = options or "defaults"
        self.path.mkdir(exist_ok=True)
        self.mounted = False
        if os.geteuid() != 0:
            raise Lacking("a disk of its own needs root (loop devices)")
        with self.image.open("wb") as file:
            file.truncate(mib * MIB)
        # A device for all mounts: one that goes with each mount may be on its way out when the next one comes.
        self.device = Path(_run(["losetup", "--find", "--show", str(self.image)]).strip())
        _run([*MAKE[kind], str(self.device)])
        self.mount()

    def mount(self) -> None:
        _run(["mount", "-t", self.kind, "-o", self._options, str(self.device), str(self.path)])
        self.mounted = True

    def unmount(self) -> None:
        wait_until(self._unmounts, 60, f"umount {self.path}")  # whoever was killed is still letting go of it
        self.mounted = False

    def _unmounts(self) -> bool:
        return subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode == 0

    def fail(self) -> None:
        """The kernel finds an error in an ext4 and, mounted with errors=remount-ro, lets nobody write any more."""
        trigger = Path(f"/sys/fs/ext4/{self.device.name}/trigger_fs_error")
        if not trigger.exists():
            raise Lacking(f"{trigger} does not exist: this kernel cannot be asked for a file system error")
        trigger.write_text("torture")

    def lose_power(self) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def again(self) -> None:
        """The power is back: unmount what died, and mount it anew, which replays what the log has."""
        self.unmount()
        self.mount()

    def renew(self) -> None:
        """An empty file system."""
        self.unmount()
        _run([*MAKE[self.kind], str(self.device)])
        self.mount()

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.mounted:
            self.unmount()
        _run(["losetup", "--detach", str(self.device)])
        self.image.unlink()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Lacking(f"the program {command[0]} is missing (packaging/test-packages)") from None
    if done.returncode:
        raise Lacking(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
