"""The gateway under torture: the real daemon as a process, started, killed and started again some thousand times.

    with Nursery() as nursery, Gateway(directory, archive_at(port), nursery) as gateway:
        gateway.start(); gateway.kill(); gateway.start()

With a nursery the daemon is forked from a process that has imported it; without, it is `python -m edge run`, and the
time that start() returns is the whole time from nothing to ready. Ready is what systemd would be told.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.support.nursery import REPOSITORY, Child, Nursery
from tests.support.peers import EDGE, ENVIRONMENT, free_port, group_lives, http_get, wait_until

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

START_SECONDS = 60.0


def archive_at(port: int, confirm: str = "status", more: str = "", host: str = "127.0.0.1") -> str:
    """Configuration: everything goes to one archive."""
    return (
        f'[destination.archive]\nae_title = "ARCHIVE"\nhost = "{host}"\nport = {port}\nconfirm = "{confirm}"\n'
        f'[route.everything]\nto = ["archive"]\n{more}'
    )


class Gateway:
    """See the module's docstring. A context manager: on exit it is killed."""

    def __init__(self, directory: Path, config: str, nursery: Nursery | None = None, data_dir: Path | None = None):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.nursery = directory, nursery
        self.data_dir = data_dir or directory / "data"
        self.config_dir, self.log = directory / "conf.d", directory / "edge.log"
        self.config_dir.mkdir(exist_ok=True)
        self.port, self.console_port = free_port(), free_port()
        self.environment: dict[str, str] = {}
        self.prefix: list[str] = []
        self.pid = 0
        self._process: subprocess.Popen[bytes] | Child | None = None
        self._notices: socket.socket | None = None
        self.configure(config)

    def configure(self, config: str) -> None:
        (self.config_dir / "edge.toml").write_text(
            f'[site]\nid = "0067"\nname = "Torture"\ndata_dir = "{self.data_dir}"\n'
            f'[listen]\nae_title = "EDGE"\nhost = "127.0.0.1"\nport = {self.port}\nunknown = "accept"\n'
            f'[console]\nhost = "127.0.0.1"\nport = {self.console_port}\n{config}'
        )

    # -- a life -------------------------------------------------------------------------------------------------------

    def spawn(self, wait: bool = False) -> None:
        """Start, and do not wait; `wait`: it is stopped before its first step (SIGCONT lets it go)."""
        assert self.pid == 0, "it runs already"
        self.data_dir.mkdir(exist_ok=True)
        notify = self.directory / "notify"
        notify.unlink(missing_ok=True)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(notify))
        environment = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "NOTIFY_SOCKET": str(notify), **self.environment}
        command = ["run", "--config", str(self.config_dir)]
        with self.log.open("ab") as log:
            if self.nursery is not None:
                self._process = self.nursery.spawn(command, environment, REPOSITORY, log, stopped=wait)
            else:
                command = [*self.prefix, *EDGE, *command]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
                )
        self.pid = self._process.pid

    def start(self) -> float:
        """Start; returns the seconds until it is ready. AssertionError with its own words where it does not."""
        began = time.monotonic()
        self.spawn()
        if not self.becomes_ready():
            said = self.words()
            self.kill()
            raise AssertionError(f"the gateway did not become ready\n{said}")
        return time.monotonic() - began

    def becomes_ready(self, seconds: float = START_SECONDS) -> bool:
        """Wait for READY=1; False when it ends first, or does not come in time."""
        assert self._notices is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._notices, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if selector.select(min(left, 0.25)):
                    if b"READY=1" in self._notices.recv(4096).splitlines():
                        return True
                elif self.has_ended():
                    return False
        return False

    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def reap(self) -> int:
        """Wait for its end; its exit code, negative for a signal."""
        assert self._process is not None
        code = self._process.wait(60)
        wait_until(lambda: not group_lives(self.pid), 60, "its children have ended")
        self.pid, self._process = 0, None
        assert self._notices is not None
        self._notices.close()
        return code

    def kill(self) -> None:
        """SIGKILL to it and its children, at this moment."""
        if self._process is not None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                self._process.kill()  # it has no session of its own yet
            self.reap()

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.reap()

    def pause(self) -> None:
        """SIGSTOP to all its processes, and wait until each of their threads has stopped."""
        os.killpg(self.pid, signal.SIGSTOP)
        wait_until(self._stands, 60, "every thread has stopped", interval=0.001)

    def processes(self) -> list[psutil.Process]:
        """The daemon, its fork server and its receiving processes."""
        daemon = psutil.Process(self.pid)
        return [daemon, *daemon.children(recursive=True)]

    def named(self, *names: str) -> list[psutil.Process]:
        """Those of its processes that have one of these names."""
        found = []
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                found += [each] if each.name() in names else []
        return found

    def memory(self) -> int:
        """Bytes that all its processes use together: what they share is counted once (PSS)."""
        used = 0
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):  # a receiving process that has just been replaced
                used += each.memory_full_info().pss
        return used

    def _stands(self) -> bool:
        states = []
        try:
            for task in [task for each in self.processes() for task in Path(f"/proc/{each.pid}/task").iterdir()]:
                states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            return False  # one that was listed has ended since
        return all(state in "TtZ" for state in states)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()

    # -- what it says -------------------------------------------------------------------------------------------------

    def words(self, lines: int = 25) -> str:
        if not self.log.exists():
            return "(it has said nothing)"
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def http(self, path: str) -> tuple[int, bytes]:
        return http_get(f"http://127.0.0.1:{self.console_port}{path}")

    def status(self) -> Any:
        import json

        status, body = self.http("/api/status")
        assert status == 200, f"/api/status answers {status}\n{self.words()}"
        return json.loads(body)

    def cli(self, *args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge", *args]
        environment = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "EDGE_CONFIG": str(self.config_dir)}
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)

    def settled(self) -> None:
        """Wait until what was answered is in the catalog."""
        wait_until(lambda: not self._unapplied(), 120, "what was answered is in the catalog", interval=0.001)

    def drained(self, seconds: float = 60.0) -> None:
        """Wait until all that was answered is in the catalog, and nothing is left to send."""
        wait_until(lambda: self._left() == 0, seconds, "nothing is left to send", interval=0.05)

    def _left(self) -> int:
        unapplied, queue = self._unapplied(), self.status()["queue"]
        return int(queue["pending"] + queue["active"] + queue["deferred"] + unapplied)

    def _unapplied(self) -> bool:
        return bool(self.status()["journal"]["applied_lag_seconds"])
