"""This machine once more, booted: systemd in a container on an overlay of the root file system.

What it changes is forgotten: its mounts live in a mount namespace of their own, its upper layer in memory, so nothing
is left behind, however it ends. Its network is a loopback of its own. Needs root; where the machine does not allow all
that, the test says so and is skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from tests.support.peers import Run, requires, wait_until

#: $1: an empty directory. The others: the cgroup.procs files to enter; then, after --, what to run.
PREPARE = """
set -e
mount -t tmpfs -o size=3g edge-test "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
rm -f "$1/root/usr/sbin/policy-rc.d"  # images for containers forbid services to start
shift
while [ "$1" != -- ]; do echo $$ > "$1"; shift; done
shift
exec "$@"
"""

UNSHARE = ["unshare", "--mount", "--propagation", "private"]


class Machine:
    """`with Machine(tmp_path / "machine", {"/mnt": files}) as machine: machine.run("dpkg", "-i", ...)`.

    `binds`: what of ours is seen in it, and where; it may write there. `shares_network`: its loopback is ours.
    """

    def __init__(self, directory: Path, binds: dict[str, Path], *, shares_network: bool = False) -> None:
        _require_privileges()
        directory.mkdir()
        self.directory, self.binds, self.shares_network = directory, binds, shares_network
        self.log = directory.with_suffix(".log")
        self.cgroups: list[Path] = []

    def __enter__(self) -> Machine:
        self.cgroups = _own_cgroups()
        entries = [str(cgroup / "cgroup.procs") for cgroup in self.cgroups]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*UNSHARE, "sh", "-c", PREPARE, "sh", str(self.directory), *entries, "--", *self._nspawn()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._booted, 60, "the container has booted")
        except BaseException:
            self.kill()
            print(self.log.read_text("utf-8", "replace"))
            raise
        return self

    def _nspawn(self) -> list[str]:
        alone = ["--keep-unit"] if self.cgroups else []
        binds = [f"--bind={ours}:{theirs}" for theirs, ours in self.binds.items()]
        network = [] if self.shares_network else ["--private-network"]
        where = [f"--directory={self.directory}/root", *binds, "--machine=edge-test", *network]
        # Landlock, which this version of systemd-nspawn keeps from containers; a machine of its own has it.
        landlock = "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self"
        how = ["--register=no", "--console=read-only", landlock, *alone]
        # basic.target: none of the services that this machine happens to have is started.
        return [requires("systemd-nspawn"), *how, *where, "--boot", "systemd.unit=basic.target"]

    def _booted(self) -> bool:
        assert self.process.poll() is None, "systemd-nspawn ended"
        return bool(self._init()) and self.run("systemctl", "is-active", "basic.target", check=False).returncode == 0

    def _init(self) -> int:
        """The process id, seen from outside, of the container's first process; 0 before there is one."""
        children = psutil.Process(self.process.pid).children()
        return children[0].pid if children and children[0].name() == "systemd" else 0

    def run(self, *command: str, check: bool = True, timeout: float = 600) -> Run:
        """Run a command in it, as its root."""
        inside = self.inside(*command)
        done = subprocess.run(inside, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def inside(self, *command: str) -> list[str]:
        """The command that runs `command` in it."""
        enter = ["nsenter", f"--target={self._init()}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TCP_NODELAY=1"]
        return [*enter, *clean, *command]

    def path(self, path: str) -> Path:
        """A file or folder in it, as we see it; what is bound is seen through it, too."""
        return Path(f"/proc/{self._init()}/root{path}")

    def write(self, path: str, text: str) -> None:
        """Write a file in it, with the directories above."""
        self.run("mkdir", "-p", str(Path(path).parent))
        self.run("sh", "-c", 'printf "%s" "$2" > "$1"', "sh", path, text)

    def limit(self, unit: str, memory: int, tasks: int) -> None:
        """Put limits on a running service, as MemoryMax= (bytes) and TasksMax= do: by systemd, where it has cgroups v2.

        Under v1 a container has no controllers of its own, so the service is put into cgroups of ours, from outside.
        """
        if "memory" in self.run("cat", "/sys/fs/cgroup/cgroup.controllers", check=False).stdout:
            self.run("systemctl", "set-property", "--runtime", unit, f"MemoryMax={memory}", f"TasksMax={tasks}")
            return
        main = self.run("systemctl", "show", "--value", "--property=MainPID", unit).stdout.strip()
        process = psutil.Process(self._outside(main))
        pids = [each.pid for each in (process, *process.children(recursive=True))]
        for controller, file, most in (("memory", "memory.limit_in_bytes", memory), ("pids", "pids.max", tasks)):
            cgroup = Path("/sys/fs/cgroup", controller, f"edge-test-{os.getpid()}")
            if not cgroup.exists():
                cgroup.mkdir()
                self.cgroups.append(cgroup)
            (cgroup / file).write_text(str(most))
            for pid in pids:
                (cgroup / "cgroup.procs").write_text(str(pid))

    def _outside(self, pid: str) -> int:
        """The process id out here of a process in there (proc_pid_status(5), NSpid)."""
        namespace = os.readlink(f"/proc/{self._init()}/ns/pid")
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/pid") != namespace:
                    continue
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue  # it has ended
            if next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == pid:
                return process.pid
        raise AssertionError(f"there is no process {pid} in the container")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def kill(self) -> None:
        """All its processes end at once, and what is not bound is gone."""
        if init := self.process.poll() is None and self._init():
            os.kill(init, signal.SIGKILL)  # the first process of a process namespace takes all others with it
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(60)
        while self.cgroups:
            wait_until(partial(_removed, self.cgroups.pop()), 10, "its cgroup is empty")


def _require_privileges() -> None:
    for program in ("unshare", "nsenter", "systemd-nspawn"):
        requires(program)
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED HERE: booting a container needs root")
    if mounted := [path for path in ("/usr", "/var", "/etc", "/lib") if os.path.ismount(path)]:
        pytest.skip(f"NOT TESTED HERE: {mounted[0]} is a file system of its own; the overlay covers / alone")
    if not _hierarchies():
        pytest.skip("NOT TESTED HERE: no cgroups are mounted, and systemd does not boot without")
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode:
        pytest.skip("NOT TESTED HERE: this machine does not let us mount, so no container can boot")


def _own_cgroups() -> list[Path]:
    """A fresh cgroup in each hierarchy that systemd wants; none where one runs already, for it makes its own."""
    if Path("/run/systemd/system").is_dir():
        return []
    made = [hierarchy / f"edge-test-{os.getpid()}" for hierarchy in _hierarchies()]
    for cgroup in made:
        cgroup.mkdir()
    return made


def _hierarchies() -> list[Path]:
    """Where the cgroups are mounted that a systemd uses to keep its services apart."""
    mounts = [line.split()[1:4] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [
        Path(where)
        for where, kind, options in mounts
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(","))
    ]


def _removed(cgroup: Path) -> bool:
    """Remove a cgroup with those below it; False while a process is still in one."""
    try:
        for below in sorted(cgroup.rglob("*/"), reverse=True):
            below.rmdir()
        cgroup.rmdir()
    except OSError:
        return False
    return True
