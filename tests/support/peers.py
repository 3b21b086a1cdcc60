"""Real peers for the tests: DCMTK and Orthanc as Debian ships them, and Edge itself, each a process on 127.0.0.1.

    with StoreScp(tmp_path / "archive") as archive, Edge(tmp_path / "edge", routes_to(archive)) as edge:
        storescu(ct_files(tmp_path / "ct", 20), edge.port)
        wait_until(lambda: len(archive.files()) == 20, 30, "all at the archive")

Every wait is bounded; what fails shows the peer's own words. A peer runs in a session of its own, so that it is stopped
with its children, by its pid. A program that is not installed skips the test loudly, and fails it where CI=true.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import psutil
import pytest
from click.testing import CliRunner

from tests.support import nursery
from tests.support.nursery import COMMANDS, GATEWAYS, Child
from tests.support.objects import sop_instance_uid

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

REPOSITORY = nursery.REPOSITORY

#: DCMTK waits for delayed acknowledgements (Nagle) unless told otherwise, as client and as server. Python may keep
#: what it has compiled: a gateway that is compiled at each start takes three times the time to start.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": ""}

#: `edge`, from this tree.
EDGE = [sys.executable, "-m", "edge"]

Files = Iterable[Path]
T = TypeVar("T")


# Whatever a test wants and may not find.


def absent(what: str) -> NoReturn:
    """Skip the test because `what` is missing here; in CI, where nothing may be missing, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}: missing, and CI runs every test")
    pytest.skip(f"NOT TESTED HERE: {what}: missing")


def requires(program: str) -> str:
    """Path of a program; not those that pynetdicom installs under DCMTK's names beside our interpreter."""
    ours = Path(sys.prefix) / "bin"
    elsewhere = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(folder) != ours]
    found = shutil.which(program, path=os.pathsep.join([*elsewhere, "/usr/sbin", "/sbin"]))
    return found or absent(f"the program {program} (see packaging/test-packages)")


# Waiting, bounded.

#: How long a test waits for what must happen, at least: only a broken promise lasts as long. No test judges by the time
#: that a machine takes, for it may be busy with other things. A code that was broken on purpose needs little.
PATIENCE = float(os.environ.get("PATIENCE", "60"))


def wait_until(predicate: Callable[[], T], timeout: float, what: str, interval: float = 0.0) -> T:
    """First true value of `predicate`; an AssertionError after `timeout` seconds, or PATIENCE where that is longer.

    It is asked every `interval` seconds; where none is given, again after a tenth of the time that has passed: who asks
    a gateway fifty times a second keeps it from what it is to do.
    """
    timeout = max(timeout, PATIENCE)
    began = time.monotonic()
    while not (value := predicate()):
        passed = time.monotonic() - began
        if passed > timeout:
            raise AssertionError(f"waited {timeout:g} s in vain for: {what} (last: {value!r})")
        time.sleep(interval or _pause_after(passed))
    return value


def _pause_after(passed: float) -> float:
    return min(max(passed / 10, 0.02), 0.25)


#: What this process has not drawn yet, by chance.
_PORTS: list[int] = []


def free_port() -> int:
    """A TCP port nobody listens on, below those that the kernel gives to outgoing connections: it stays free.

    It is drawn once. Each worker of a suite has ports of its own: what one has drawn may be nobody's for a while.
    """
    for _ in range(200):
        if not _PORTS:
            number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
            ours = range(15_000 + number, 32_000, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
            _PORTS.extend(random.sample(ours, len(ours)))
        port = _PORTS.pop()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free TCP port in 200 tries")


def group_lives(pid: int) -> bool:
    """Is there a process of a group that has not ended? A zombie has.

    One that is killed may be long about it, where the disk is slow, and holds its locks and mounts until then.
    """
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False  # nor a zombie: nobody else need be looked at
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has ended meanwhile
        if int(group) == pid and state not in "ZX":
            return True
    return False


def http_get(url: str, timeout: float = PATIENCE) -> tuple[int, bytes]:
    """Status and body; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


# Peers.


class Peer:
    """A server process with its own directory; it prints into `log`. A context manager, or start() and stop()."""

    name = "peer"
    start_timeout = PATIENCE
    stop_timeout = PATIENCE

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log = directory / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | Child | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return ENVIRONMENT

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> Self:
        """Start, and return once it is ready."""
        assert self.process is None, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self.process = self.spawn(log)
        try:
            wait_until(self._ready_or_dead, self.start_timeout, f"{self.name} is ready")
        except BaseException as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.output()}") from error
        return self

    def spawn(self, log: BinaryIO) -> subprocess.Popen[bytes] | Child:
        return subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self.environment(),
            cwd=self.directory,
            start_new_session=True,
        )

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"{self.name} ended with {code} instead of serving")
        return self.is_ready()

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> int:
        """SIGTERM, and wait for its end; returns the exit code. Too slow is an error."""
        self.signal(signal.SIGTERM)
        try:
            return self._reap(self.stop_timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            text = f"{self.name} did not stop within {self.stop_timeout:g} s of SIGTERM"
            raise AssertionError(f"{text}\n{self.output()}") from None

    def kill(self) -> None:
        """SIGKILL, with its children, and wait."""
        if self.process is not None:
            self._signal_all(signal.SIGKILL)
            self._reap(60)

    def pause(self) -> None:
        """SIGSTOP: it lives, accepts connections into the backlog, and answers nothing."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def _signal_all(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)  # its session is its own: only it and its children are meant
        except ProcessLookupError:
            pass  # ended by itself

    def _reap(self, timeout: float) -> int:
        assert self.process is not None
        code = self.process.wait(timeout)
        self._signal_all(signal.SIGKILL)  # children that outlived it
        wait_until(lambda: not group_lives(self.pid), 60, f"the children of {self.name} have ended")
        self.process = None
        return code

    def output(self, lines: int = 60) -> str:
        """The end of what it has printed, for people."""
        text = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join([f"--- the last lines of {self.name}", *text[-lines:], "---"])

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


class StoreScp(Peer):
    """DCMTK `storescp`; keeps what it gets bit for bit. `args`: faults such as --abort-after."""

    name = "storescp"

    def __init__(
        self, directory: Path, ae_title: str = "ARCHIVE", args: Sequence[str] = (), port: int = 0, fork: bool = True
    ) -> None:
        super().__init__(directory)
        self.ae_title, self.args, self.port, self.fork = ae_title, list(args), port or free_port(), fork
        self.store = directory / "objects"
        self.store.mkdir(exist_ok=True)

    def command(self) -> list[str]:
        keep = ["--bit-preserving", "--promiscuous", "--accept-all", "--disable-host-lookup", "--max-pdu", "131072"]
        mode = ["--fork"] if self.fork else []
        where = ["--aetitle", self.ae_title, "--output-directory", str(self.store), str(self.port)]
        return [requires("storescp"), "--verbose", *mode, *keep, *self.args, *where]

    def is_ready(self) -> bool:
        return listens(self.pid, self.port)

    def files(self) -> list[Path]:
        """What has arrived. An object sent twice is one file; `stores()` counts both."""
        return sorted(self.store.iterdir())

    def uids(self) -> set[str]:
        """Of the objects of which more than the empty file is there."""
        return {sop_instance_uid(path) for path in self.files() if path.stat().st_size}

    def stores(self) -> int:
        """C-STORE requests so far."""
        return self.log.read_text("utf-8", "replace").count("Received Store Request")


class Orthanc(Peer):
    """Orthanc as an archive that stores, is queried, and commits. `edge_port`: where its N-EVENT-REPORTs for EDGE go.

    It knows EDGE by that one address. `settings` override its configuration, by Orthanc's names.
    """

    name = "Orthanc"
    ae_title = "ORTHANC"

    def __init__(self, directory: Path, edge_port: int, port: int = 0, **settings: Any) -> None:
        super().__init__(directory)
        self.port, self.http_port = port or free_port(), free_port()
        self.configuration = directory / "orthanc.json"
        self.configuration.write_text(json.dumps(self._settings(edge_port) | settings, indent=1))

    def _settings(self, edge_port: int) -> dict[str, Any]:
        return {
            "Name": "archive",
            "StorageDirectory": str(self.directory / "storage"),
            "IndexDirectory": str(self.directory / "storage"),
            "HttpPort": self.http_port,
            "HttpThreadsCount": 4,
            "AuthenticationEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomModalities": {"edge": ["EDGE", "127.0.0.1", edge_port]},
            "AcceptedTransferSyntaxes": ["1.2.*"],
            "UnknownSopClassAccepted": True,
            "StorageCommitmentReportsSize": 10_000,
            "MaximumPduLength": 131_072,
            "StableAge": 1,
            "SyncStorageArea": True,
            "SaveJobs": False,
            "DicomAssociationCloseDelay": 0,
        }

    def command(self) -> list[str]:
        return [requires("Orthanc"), "--verbose-dicom", str(self.configuration)]

    def is_ready(self) -> bool:
        return listens(self.pid, self.port) and http_get(self.url("/system"))[0] == 200

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http_port}{path}"

    def get(self, path: str) -> Any:
        return json.loads(self._ok(path))

    def _ok(self, path: str) -> bytes:
        status, body = http_get(self.url(path))
        assert status == 200, f"Orthanc answers {status} to GET {path}\n{self.output()}"
        return body

    def count(self) -> int:
        """Instances that it holds."""
        return int(self.get("/statistics")["CountInstances"])

    def instances(self) -> dict[str, str]:
        """SOP Instance UID -> Orthanc's own identifier."""
        return {item["MainDicomTags"]["SOPInstanceUID"]: item["ID"] for item in self.get("/instances?expand")}

    def file(self, identifier: str) -> bytes:
        """The Part 10 file of one instance, by Orthanc's identifier."""
        return self._ok(f"/instances/{identifier}/file")

    def delete(self, identifier: str) -> None:
        request = urllib.request.Request(self.url(f"/instances/{identifier}"), method="DELETE")
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            assert response.status == 200


class Edge(Peer):
    """The gateway as a process, on a configuration directory that `config` (TOML) completes.

    Site, addresses and `listen.unknown` are set here; tables merge, so `config` may add other keys to [listen].
    It and its commands are forked by a nursery, which saves most of a start; `forked=False`: they start from nothing.
    """

    name = "edge"

    def __init__(
        self,
        directory: Path,
        config: str = "",
        *,
        unknown: str = "accept",
        data_dir: Path | None = None,
        port: int = 0,
        forked: bool = True,
    ) -> None:
        super().__init__(directory)
        self.forked = forked
        self.port, self.console_port = port or free_port(), free_port()
        self.data_dir = data_dir or directory / "data"
        self.data_dir.mkdir(exist_ok=True)
        self.config_dir = directory / "conf.d"
        self.config_dir.mkdir(exist_ok=True)
        self._base(unknown)
        self.configure(config)
        self.until = "/readyz"

    def _base(self, unknown: str) -> None:
        (self.config_dir / "00-base.toml").write_text(
            f'[site]\nid = "0067"\nname = "Test Clinic"\ndata_dir = "{self.data_dir}"\n'
            f'[listen]\nae_title = "EDGE"\nhost = "127.0.0.1"\nport = {self.port}\nunknown = "{unknown}"\n'
            f'[console]\nhost = "127.0.0.1"\nport = {self.console_port}\n'
        )

    def configure(self, config: str) -> None:
        """Write the test's part of the configuration; it takes effect at the next start() or reload()."""
        (self.config_dir / "10-test.toml").write_text(config)

    def command(self) -> list[str]:
        return [*EDGE, "run", "--config", str(self.config_dir)]

    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "EDGE_CONFIG": str(self.config_dir)}

    def spawn(self, log: BinaryIO) -> subprocess.Popen[bytes] | Child:
        if not self._is_forked or self.command()[: len(EDGE)] != EDGE:
            return super().spawn(log)
        return GATEWAYS.spawn(self.command()[len(EDGE) :], self.environment(), self.directory, log)

    @property
    def _is_forked(self) -> bool:
        """Not where the environment is another: a start of Python may read it before all else."""
        return self.forked and self.environment() == Edge.environment(self)

    def is_ready(self) -> bool:
        return http_get(self.url(self.until))[0] == 200

    def start(self, until: str = "/readyz") -> Self:
        """Start, and wait for 200 on a path of the console: /readyz, or /healthz where it is not to become ready."""
        self.until = until
        return super().start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.console_port}{path}"

    def cli(self, *args: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run `edge ARGS` on this gateway's configuration; the caller looks at the exit code."""
        self.settle()
        environment = self.environment()
        if self._is_forked:
            return COMMANDS.run(args, environment, timeout)
        return subprocess.run(
            [*EDGE, *args], capture_output=True, text=True, timeout=timeout, env=environment, check=False
        )

    def ask(self, *args: str) -> subprocess.CompletedProcess[str]:
        """The same in this process, which spares the start of another."""
        from edge.cli import cli  # slow to import

        self.settle()
        done = CliRunner().invoke(cli, args, env={"EDGE_CONFIG": str(self.config_dir)}, catch_exceptions=False)
        return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)

    def status(self) -> Any:
        """`edge status --json`, which answers also where the daemon is down."""
        done = self.cli("status", "--json")
        assert done.returncode in (0, 1), f"edge status ended with {done.returncode}:\n{done.stderr}{self.output()}"
        return json.loads(done.stdout)

    def api_status(self) -> Any:
        """The same from the console of the running daemon, once all is applied: quick enough to ask often."""
        if (settled := self.settle()) is not None:
            return settled
        status, body = http_get(self.url("/api/status"))
        assert status == 200, f"/api/status answers {status}\n{self.output()}"
        return json.loads(body)

    def settle(self, seconds: float = 20.0) -> Any:
        """Wait until what was answered is in the catalog; for 5 s, where something hinders that.

        Returns the status that says so; None where there is none.
        """
        began = now = time.monotonic()
        end = began + seconds
        while self.process is not None and self.process.poll() is None and now < end:
            status, body = http_get(self.url("/api/status"))
            if status != 200:
                return None
            found = json.loads(body)
            if found["journal"] is None or not found["journal"]["applied_lag_seconds"]:
                return found
            if found["state"] != "running":
                end = min(end, began + 5.0)
            time.sleep(_pause_after(now - began))
            now = time.monotonic()
        return None

    def reload(self) -> None:
        self.signal(signal.SIGHUP)


def routes_to(*destinations: StoreScp | Orthanc, confirm: str = "status", more: str = "") -> str:
    """Configuration: a destination for each peer, named by its AE title in lower case, and a route to them all.

    `more` stands in every destination's table.
    """
    names = [peer.ae_title.lower() for peer in destinations]
    tables = [
        f'[destination.{name}]\nae_title = "{peer.ae_title}"\nhost = "127.0.0.1"\n'
        f'port = {peer.port}\nconfirm = "{confirm}"\n{more}\n'
        for name, peer in zip(names, destinations, strict=True)
    ]
    return "".join([*tables, f"[route.everything]\nto = {json.dumps(names)}\n"])


def listens(pid: int, port: int) -> bool:
    """True once the process listens; asked of the kernel, so that the peer sees no stray connection."""
    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    return any(item.status == psutil.CONN_LISTEN and item.laddr.port == port for item in sockets)


# Senders.

Run = subprocess.CompletedProcess[str]


def storescu(
    files: Files, port: int, *args: str, called: str = "EDGE", calling: str = "CT1", check: bool = True
) -> Run:
    """DCMTK `storescu`, one association; proposes only what the files need, so unknown SOP classes too."""
    named = [requires("storescu"), "--required", "--aetitle", calling, "--call", called, *args]
    return run([*named, "127.0.0.1", str(port), *map(str, files)], check)


def dcmsend(files: Files, port: int, *args: str, called: str = "EDGE", calling: str = "CT1", check: bool = True) -> Run:
    """DCMTK `dcmsend`: sends each file in its own transfer syntax."""
    named = [requires("dcmsend"), "--aetitle", calling, "--call", called, *args]
    return run([*named, "127.0.0.1", str(port), *map(str, files)], check)


def echoscu(port: int, *args: str, called: str = "EDGE", calling: str = "CT1", check: bool = True) -> Run:
    """DCMTK `echoscu`: C-ECHO."""
    return run([requires("echoscu"), "--aetitle", calling, "--call", called, *args, "127.0.0.1", str(port)], check)


def run(command: Sequence[str], check: bool = True, timeout: float = 600.0) -> Run:
    """Run to the end, bounded; unless told otherwise, an exit code other than 0 fails with what the program said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, check=False)
    if check and done.returncode:
        raise AssertionError(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done
