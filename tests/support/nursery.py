"""A process that has imported the gateway, and forks it: a start of `edge` then costs no start of Python.

    with Nursery() as nursery:
        child = nursery.start(["run", "--config", "conf.d"], environment, folder, (stdin, stdout, stderr))
        child.wait()

The child is `python -m edge ARGUMENTS` in its own session, but its modules are there, and it dies with the nursery.
What has to be seen before a process has imported anything needs another start: Edge(..., forked=False).

`python -m tests.support.nursery KIND` is the nursery itself, with a socket as standard input. A message is an order and
the descriptors of its standard streams and of a pipe; the answer is a pid, and the pipe says how the child ended.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PR_SET_PDEATHSIG = 1
MOST_ORDER, STREAMS = 1 << 18, 3


class Child:
    """A process that a nursery has started; what subprocess.Popen has of the same name means the same."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid, self._ended = pid, ended
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._await(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._await(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and the nursery is about to say so
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _await(self, timeout: float | None) -> int | None:
        if self.returncode is not None:
            return self.returncode
        poll = select.poll()  # select(2) takes no descriptor above 1,023
        poll.register(self._ended)
        if poll.poll(None if timeout is None else timeout * 1000):
            said = os.read(self._ended, 64)
            os.close(self._ended)
            self.returncode = int(said) if said else -signal.SIGKILL  # with the nursery
        return self.returncode


class Nursery:
    """The process, started when it is first needed. Thread-safe."""

    def __init__(self, kind: str = "gateway") -> None:
        self._kind, self._lock = kind, threading.Lock()
        self.small = False  # does a gateway lay out less than in a clinic? Said before the first start.
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        streams: tuple[int, int, int],
        *,
        stopped: bool = False,
    ) -> Child:
        """Start `edge ARGUMENTS` in `folder`. `stopped`: it stops itself first (SIGCONT lets it go)."""
        order = [list(arguments), dict(environment), str(folder), stopped]
        ended, told = os.pipe()
        try:
            with self._lock:
                channel = self._open()
                socket.send_fds(channel, [json.dumps(order).encode()], [*streams, told])
                answer = channel.recv(64)
        finally:
            os.close(told)
        assert answer, "the nursery has died"
        return Child(int(answer), ended)

    def spawn(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: BinaryIO,
        *,
        stopped: bool = False,
    ) -> Child:
        """A server, which reads nothing and says all into `log`."""
        with open(os.devnull, "rb") as nothing:
            streams = nothing.fileno(), log.fileno(), log.fileno()
            return self.start(arguments, environment, folder, streams, stopped=stopped)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """`edge ARGUMENTS` to its end, bounded: with what it has said, whatever its exit code."""
        with _file("stdout") as out, _file("stderr") as err, open(os.devnull, "rb") as nothing:
            streams = nothing.fileno(), out.fileno(), err.fileno()
            child = self.start(arguments, environment, REPOSITORY, streams)
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                raise
            said = [os.pread(each.fileno(), 1 << 30, 0).decode() for each in (out, err)]
        return subprocess.CompletedProcess(["edge", *arguments], code, *said)

    def _open(self) -> socket.socket:
        if self._channel is None:
            atexit.register(self.close)
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(REPOSITORY)}
            environment["PYTHONDONTWRITEBYTECODE"] = ""
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, self._kind, *(["small"] if self.small else [])],
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    cwd=REPOSITORY,
                    start_new_session=True,
                )
        return self._channel

    def close(self) -> None:
        """End it, and with it its children."""
        with self._lock:
            if self._process is not None and self._channel is not None:
                self._channel.close()
                self._process.wait(60)
                self._process = self._channel = None

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _file(name: str) -> BinaryIO:
    """In memory."""
    return os.fdopen(os.memfd_create(name), "w+b")


#: One for gateways, and one for all other commands, which a gateway does not load; each test process has its own.
GATEWAYS, COMMANDS = Nursery(), Nursery("command")


# The nursery's own process.


def _import_gateway() -> None:
    """All that `edge run` imports."""
    for name in ("cli.run", "query.process", "scp.receiving", "scp.dicomweb.process", "daemon.lifecycle", "web.http"):
        import_module(f"edge.{name}")


def _import_commands() -> None:
    """All that `edge` offers."""
    from edge.cli import COMMANDS

    for name in (*sorted({*COMMANDS.values()} - {"run"}), "run"):
        import_module(f"edge.cli.{name}")
    import_module("edge.daemon.changes")
    import_module("edge.central.service")


KINDS: dict[str, Callable[[], None]] = {"gateway": _import_gateway, "command": _import_commands}


def main(kind: str, *small: str) -> None:
    from edge.cli import cli  # first, as ever

    KINDS[kind]()
    import_module("edge.config").load_config(REPOSITORY / "conf.d")  # what the first one works out is kept
    if small:
        import_module("tests.support.small_files").lay_out_less()
    gc.collect()
    gc.freeze()  # a later collection would write to what is shared, and so copy it
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    arguments, environment, folder, stopped = _await_order(channel)
    # From here on: a child.
    code: Any = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        os.chdir(folder)
        sys.argv[:] = ["edge", *arguments]
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        cli(arguments, prog_name="edge")
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as Python would end: said, and then over
        traceback.print_exc()
    _end(code if isinstance(code, int) else int(code is not None))


def _end(code: int) -> NoReturn:
    """End as Python does, but for what only frees memory."""
    threading._shutdown()  # type: ignore[attr-defined]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _await_order(channel: socket.socket) -> tuple[list[str], dict[str, str], str, bool]:
    """Start children for ever; returns in each of them, with its order."""
    parent = os.getpid()
    selector = selectors.DefaultSelector()
    selector.register(channel, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                selector.unregister(key.fd)
                _report(key.fd, *key.data)
                continue
            order, descriptors, _, _ = socket.recv_fds(channel, MOST_ORDER, STREAMS + 1)
            if not order:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                selector.close()
                channel.close()
                _become(descriptors, parent)
                return json.loads(order)
            for each in descriptors[:STREAMS]:
                os.close(each)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[STREAMS]))
            channel.send(str(pid).encode())


def _report(pidfd: int, pid: int, told: int) -> None:
    """A child has ended: say how."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        os.write(told, str(code).encode())
    os.close(told)
    os.close(pidfd)


def _become(descriptors: Sequence[int], parent: int) -> None:
    """A child: have a session and the streams of one's own, and end with the nursery."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for number, descriptor in enumerate(descriptors[:STREAMS]):
        os.dup2(descriptor, number)
    os.closerange(STREAMS, 1 << 16)


if __name__ == "__main__":
    main(*sys.argv[1:])
