"""A process that has imported the gateway, and forks it: a start and a command then do not pay for that again.

What it forks does what `python -m edge ARGS` does, from there on, with descriptors, directory and environment of its
own. Whatever an interpreter reads before it begins must be the same: where it is not, a test starts a new one. Its
children end with it, and it ends with the test run.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
#: What a gateway has loaded when it runs.
LOADED = (
    "edge.cli.run",
    "edge.scp.receiving",
    "edge.query.process",
    "edge.scp.dicomweb.process",
    "edge.daemon.lifecycle",
)
_PR_SET_PDEATHSIG, _MESSAGE = 1, 1 << 18


class ForkedProcess:
    """What subprocess.Popen is, of a process that a nursery has forked."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid, self._nursery, self._ended = pid, nursery, os.pidfd_open(pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._ended, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("edge", timeout or 0.0)
            self.returncode = self._nursery.reap(self.pid)
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The tests' end. Thread-safe."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment, self._lock = dict(environment), threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.support.nursery", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        atexit.register(self._end)

    def _end(self) -> None:
        self._channel.close()
        self._process.wait(10)

    def start(self, words: Sequence[str], environment: Mapping[str, str], folder: Path, *files: int) -> ForkedProcess:
        """`edge WORDS` in a folder, in a session of its own. `files`: standard input, output and error output."""
        order = {"words": list(words), "environment": dict(environment), "folder": str(folder)}
        return ForkedProcess(self, self._ask(order, files))

    def reap(self, pid: int) -> int:
        """The exit code of a child that has ended; the number of the signal, negative, that ended it."""
        return self._ask({"reap": pid}, ())

    def _ask(self, order: dict[str, Any], files: Sequence[int]) -> int:
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(order).encode()], files)
            answer = self._channel.recv(64)
        assert answer, "the nursery has ended"
        return int(answer)


@cache
def nursery(environment: tuple[tuple[str, str], ...]) -> Nursery:
    """The one of this test process, for an environment."""
    return Nursery(dict(environment))


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in LOADED:
        import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        said, files, _, _ = socket.recv_fds(channel, _MESSAGE, 3)
        if not said:
            return
        order = json.loads(said)
        if "reap" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1])
        else:
            begun, begins = os.pipe()
            if (answer := os.fork()) == 0:
                channel.close()
                _become(order, files)
                for each in (begun, begins):
                    os.close(each)
                break
            os.close(begins)
            os.read(begun, 1)  # its session is its own now
            os.close(begun)
        for each in files:
            os.close(each)
        channel.send(str(answer).encode())
    import_module("edge.cli").main()  # below everything, so that the interpreter ends as it does


def _become(order: dict[str, Any], files: Sequence[int]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    for number, each in enumerate(files):
        os.dup2(each, number)
        os.close(each)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = ["edge", *order["words"]]


if __name__ == "__main__":
    main()
