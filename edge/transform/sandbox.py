"""The sandbox of the worker process: it gives up files, network, other processes and new programs, then reads objects.

Three walls, one behind the other: resource limits (setrlimit(2)), Landlock (landlock(7): no file system, no TCP, no
signals or abstract sockets out), seccomp (seccomp(2): the few system calls of a conversion; others fail with EPERM).
Where the kernel has not all of them, `enter` goes on with what there is and returns the names of what is missing.

By ctypes, so that no library is needed for some twenty numbers of the kernel's interface.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_SECCOMP, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 22, 4, 38
_SECCOMP_MODE_FILTER = 2

#: Numbers of the Landlock system calls, the same on every architecture.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_CREATE_RULESET_VERSION = 1
#: Rights on files by the version of the interface that brought them (linux/landlock.h): all are taken.
_FILES = ((1, 0x1FFF), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_WRITE_FILE = 1 << 1
_EXECUTE, _READING = 1 << 0, 1 << 2 | 1 << 3  # of these: read a file, list a folder
_NETWORK_SINCE, _NETWORK = 4, 0b11  # bind and connect, TCP
_SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract Unix sockets and signals

#: The system calls of a conversion, by their numbers on x86_64 and aarch64. None of them opens, finds, starts or
#: signals anything, or gives away a descriptor.
_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "recvmsg": (47, 212),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "preadv": (295, 69),
    "getrandom": (318, 278),
    "preadv2": (327, 286),
}
#: Memory may be had, but none that can be executed.
_MEMORY_CALLS = {"mmap": (9, 222), "mprotect": (10, 226)}
_PROT_EXEC = 4
#: By platform.machine(): AUDIT_ARCH of linux/audit.h, and the column of the tables above.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

#: Offsets in struct seccomp_data (linux/seccomp.h): number, architecture, the low half of the third argument.
_NUMBER, _ARCHITECTURE, _THIRD_ARGUMENT = 0, 4, 32
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06  # classic BPF, linux/bpf_common.h
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # EPERM

#: Descriptors that a worker may hold: its own, and three for the current object.
DESCRIPTORS = 16


def enter_sandbox(memory: int) -> list[str]:
    """Give up what this process does not need; `memory` is its limit of address space in bytes. No way back.

    What is imported must be imported before. Returns the names of the walls that this kernel does not have.
    """
    with suppress(OSError):  # the first to be killed when memory ends (proc_pid_oom_score_adj(5))
        Path("/proc/self/oom_score_adj").write_text("1000")
    _limit(memory)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    missing = [] if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 else ["no_new_privs"]
    if not _restrict(libc):
        missing.append("Landlock")
    if not _filter(libc, platform.machine()):
        missing.append("seccomp")
    return missing


def _limit(memory: int) -> None:
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
    }
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (bound, bound))


def _restrict(libc: ctypes.CDLL) -> bool:
    """Deny, by Landlock, all that it can deny."""
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    attributes = landlock_attributes(version)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        return bool(libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def keep_from_writing(folder: Path | None, programs: Sequence[Path] = ()) -> list[str]:
    """Let this thread, and those that it starts, write to files of no other folder, nor start a program. No way back.

    No folder: they write to no file that they open from now on. `programs`: those that they may start after all.

    Returns the names of the walls that this kernel does not have.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return ["Landlock"]
    rights = sum(rights for since, rights in _FILES if since <= version) & ~_READING
    attributes = struct.pack("=Q", rights)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        is_shut = folder is None or _allow_beneath(libc, ruleset, folder, rights & ~_EXECUTE)
        is_shut = is_shut and all(_allow_beneath(libc, ruleset, each, _EXECUTE) for each in programs)
        if programs:  # whose output goes nowhere
            is_shut = is_shut and _allow_beneath(libc, ruleset, Path(os.devnull), _WRITE_FILE)
        is_shut = is_shut and not libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return [] if is_shut else ["Landlock"]


def own_program() -> list[Path]:
    """What is needed to start another Python: the interpreter, and the loader of programs that this one has mapped."""
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    loaders = [Path(each) for each in mapped if each.startswith("/") and Path(each).name.startswith("ld-")]
    return [Path(sys.executable).resolve(), *loaders]


def _allow_beneath(libc: ctypes.CDLL, ruleset: int, folder: Path, rights: int) -> bool:
    beneath = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, beneath)  # struct landlock_path_beneath_attr
        return not libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(beneath)


def landlock_attributes(version: int) -> bytes:
    """struct landlock_ruleset_attr, as long as the kernel of this version of the interface knows it."""
    fields = [sum(rights for since, rights in _FILES if since <= version)]
    if version >= _NETWORK_SINCE:
        fields.append(_NETWORK)
    if version >= _SCOPES_SINCE:
        fields.append(_SCOPES)
    return struct.pack(f"={len(fields)}Q", *fields)


def _filter(libc: ctypes.CDLL, machine: str) -> bool:
    """Deny, by seccomp, every system call that a conversion does not need."""
    if machine not in _MACHINES:
        return False
    architecture, column = _MACHINES[machine]
    program = seccomp_program(architecture, _numbers(_CALLS, column), _numbers(_MEMORY_CALLS, column))
    code = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_program, 0, 0) == 0)


def _numbers(calls: Mapping[str, tuple[int, int]], column: int) -> list[int]:
    return [numbers[column] for numbers in calls.values()]


def seccomp_program(architecture: int, allowed: Sequence[int], memory_calls: Sequence[int]) -> bytes:
    """The filter in classic BPF: another architecture's calls kill the process, all that is not allowed is EPERM."""
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_IF_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    code.append((_LOAD, 0, 0, _NUMBER))
    for number in allowed:
        code += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number in memory_calls:
        code += [
            (_JUMP_IF_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _THIRD_ARGUMENT),
            (_JUMP_IF_BITS, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    code.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBL", *instruction) for instruction in code)
