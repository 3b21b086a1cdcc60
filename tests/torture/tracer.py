"""Stops a process at one of its steps to the outside world: before it the process dies, or the step fails.

    python -m tests.torture.tracer PID REPORT reads|writes "SITE#N" kill|kill-own|EIO|ENOSPC|none

PID stands still (SIGSTOP) and is let go once it is traced. `kill` ends it with all its children, `kill-own` that one of
them which takes the step. Their steps are numbered over all their threads, in the order in which they begin: every
system call that writes, syncs, names, removes or sends (or, with `reads`, reads) below the data directory or on a
socket. A site is a call and what it is done to ("fsync partial file"); the N-th step there is struck, for the order of
the threads differs from run to run. REPORT gets a line for each step: number, thread, call, what it was done to; the
one that was struck has a "*". This ends with the process. strace(1) can do the same only thread by thread.

Limits: x86_64 Linux.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

# <sys/ptrace.h>
SEIZE, SYSCALL, POKEUSER, GET_SYSCALL_INFO = 0x4206, 24, 6, 0x420E
OPTIONS = 0x01 | 0x02 | 0x04 | 0x08 | 0x100000  # TRACESYSGOOD, FORK, VFORK, CLONE, EXITKILL
WALL = 0x40000000
ENTRY, EXIT = 1, 2
ORIG_RAX, RAX = 15 * 8, 10 * 8  # <sys/user.h>

#: By number on x86_64. The descriptor is the first argument, or there is a path in it.
WRITES = {
    1: "write", 18: "pwrite64", 20: "writev", 296: "pwritev", 328: "pwritev2", 306: "syncfs", 74: "fsync",
    75: "fdatasync", 77: "ftruncate",
    285: "fallocate", 82: "rename", 264: "renameat", 316: "renameat2", 87: "unlink", 263: "unlinkat", 83: "mkdir",
    258: "mkdirat", 84: "rmdir", 44: "sendto", 46: "sendmsg",
}  # fmt: skip
READS = {0: "read", 17: "pread64", 19: "readv", 295: "preadv", 327: "preadv2", 45: "recvfrom"}
BY_PATH = {"rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"}
AT_CALLS = {"renameat", "renameat2", "unlinkat", "mkdirat"}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@dataclass(frozen=True)
class Step:
    number: int
    thread: int
    call: str
    target: str
    struck: bool

    @property
    def site(self) -> str:
        """What was done to what, the same in every run."""
        return f"{self.call} {place_of(self.target)}"


def place_of(target: str) -> str:
    """Which of our files it is, without what differs from run to run."""
    if target.startswith(("socket:", "anon_inode", "pipe:")):
        return target.split(":", maxsplit=1)[0]
    for pattern, name in (
        (r"\.part$", "partial file"),
        (r"/journal/\d{8}\.seg$", "segment"),
        (r"/journal/\d{8}\.new$", "new segment"),
        (r"\.dcm$", "spooled file"),
        (r"/spool/\d+$", "bucket"),
        (r"/spool$", "spool"),
        (r"/incoming$", "incoming"),
        (r"/data$", "data directory"),
    ):
        if re.search(pattern, target):
            return name
    return Path(target).name


def read_report(path: Path) -> list[Step]:
    steps = []
    for line in path.read_text().splitlines():
        number, thread, call, struck, target = line.split(" ", 4)
        steps.append(Step(int(number), int(thread), call, target, struck == "*"))
    return steps


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    done = int(_libc.ptrace(request, pid, address, data))
    if done == -1 and (code := ctypes.get_errno()):
        raise OSError(code, os.strerror(code))
    return done


class Tracer:
    """See the module's docstring."""

    def __init__(self, pid: int, report: Path, calls: dict[int, str], at: str, act: str) -> None:
        self.pid, self.calls, self.act = pid, calls, act
        self._site, _, nth = at.rpartition("#")
        self._left = int(nth)  # steps at the site until the one that is struck
        self.count = 0
        self._failing: set[int] = set()  # threads whose call of this moment is to fail
        self._report = report.open("w", buffering=1)
        self._buffer = ctypes.create_string_buffer(128)

    def run(self) -> None:
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            _ptrace(SEIZE, int(task.name), 0, OPTIONS)
        print("attached", flush=True)
        os.kill(self.pid, signal.SIGCONT)
        while True:
            try:
                pid, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                try:
                    self._stopped(pid, status)
                except ProcessLookupError:
                    pass  # killed since

    def _stopped(self, pid: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        deliver = 0
        if number == signal.SIGTRAP | 0x80:
            self._at_call(pid)
        elif not event:
            deliver = number
        _ptrace(SYSCALL, pid, 0, deliver)

    def _at_call(self, tid: int) -> None:
        _ptrace(GET_SYSCALL_INFO, tid, len(self._buffer), ctypes.addressof(self._buffer))
        info = self._buffer.raw
        if info[0] == EXIT and tid in self._failing:
            self._failing.discard(tid)
            _ptrace(POKEUSER, tid, RAX, -getattr(errno, self.act) & 0xFFFFFFFFFFFFFFFF)
        elif info[0] == ENTRY:
            number, *arguments = struct.unpack_from("<7Q", info, 24)
            call = self.calls.get(number)
            if call == "pwritev2" and not arguments[5] & os.RWF_DSYNC:
                call = "pwritev"  # the same, without a flush
            if call is not None and (target := self._target(tid, call, arguments)):
                self._step(tid, call, target)

    def _step(self, tid: int, call: str, target: str) -> None:
        self.count += 1
        if f"{call} {place_of(target)}" == self._site:
            self._left -= 1
        struck = self._left == 0 and self.act != "none"
        self._left -= struck
        print(self.count, tid, call, "*" if struck else "-", target, file=self._report)
        if struck and self.act == "kill":
            os.killpg(self.pid, signal.SIGKILL)
        elif struck and self.act == "kill-own":
            os.kill(tid, signal.SIGKILL)
        elif struck:
            self._failing.add(tid)
            _ptrace(POKEUSER, tid, ORIG_RAX, 0xFFFFFFFFFFFFFFFF)  # no call at all

    def _target(self, tid: int, call: str, arguments: list[int]) -> str:
        """What a call is about; empty when that is none of ours."""
        if call in BY_PATH:
            return self._text(tid, arguments[1 if call in AT_CALLS else 0])
        try:
            target = os.readlink(f"/proc/{tid}/fd/{arguments[0]}")
        except OSError:
            return ""
        return target if "/data" in target or target.startswith("socket:") else ""

    @staticmethod
    def _text(tid: int, address: int) -> str:
        try:
            with open(f"/proc/{tid}/mem", "rb", 0) as memory:
                memory.seek(address)
                return memory.read(256).split(b"\0")[0].decode("utf-8", "replace")
        except OSError:
            return ""  # killed since


def main() -> None:
    pid, report, kind, at, act = sys.argv[1:]
    if platform.machine() != "x86_64":
        sys.exit("the tracer knows x86_64 only")
    Tracer(int(pid), Path(report), {"reads": READS, "writes": WRITES}[kind], at, act).run()


if __name__ == "__main__":
    main()
