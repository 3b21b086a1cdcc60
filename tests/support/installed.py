"""The gateway of the built package, installed on a booted machine, for stories that are told of an Edge.

    with Machine(folder / "machine", {"/mnt": packages, "/var/lib/edge": data}, shares_network=True) as machine:
        edge = InstalledEdge(folder, machine, (free_port(), free_port()))
        edge.install("/mnt/edge.deb")
        machine.run("edge", "init", "--yes", "--port", str(edge.port), ...)
        edge.start()

Its files are seen through the machine; its data directory is one of ours.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from tests.support.machine import Machine
from tests.support.peers import PATIENCE, Edge, Peer, Run

AS_USER = ("runuser", "--user", "edge", "--", "edge")


class InstalledEdge(Edge):
    """It runs under its unit; its commands are those of /usr/bin, run as its user. Its log is systemd's journal."""

    name = "installed-edge"

    def __init__(self, directory: Path, machine: Machine, ports: tuple[int, int]) -> None:
        """`ports`: where scanners send to, and the console's. Its configuration is to name them."""
        Peer.__init__(self, directory)
        self.machine, self.data_dir = machine, machine.binds["/var/lib/edge"]
        self.port, self.console_port = ports

    def install(self, package: str) -> None:
        """Install the package; the service waits for its configuration."""
        self.machine.run("dpkg", "--install", package, timeout=900)
        self.config_dir = self.machine.path("/etc/edge/conf.d")

    def spawn(self, log: BinaryIO) -> subprocess.Popen[bytes]:
        """Start the unit; what runs out here is who reads its journal."""
        self.machine.run("systemctl", "start", "edge", check=False)
        reads = ["journalctl", "--unit=edge", "--output=cat", "--no-tail", "--follow"]
        command = self.machine.inside(*reads)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def cli(self, *args: str, timeout: float = PATIENCE) -> Run:
        """Run `edge ARGS` as the gateway's user, as the guide does."""
        self.settle()
        return self.machine.run(*AS_USER, *args, check=False, timeout=timeout)

    def command_line(self, *args: str) -> list[str]:
        """The same, for a terminal out here."""
        return self.machine.inside("env", "TERM=tmux", *AS_USER, *args)

    def reload(self) -> None:
        self.machine.run("systemctl", "reload", "edge")

    def kill(self) -> None:
        """SIGKILL to all its processes; the unit is stopped before systemd starts it again."""
        self.machine.run("sh", "-c", "systemctl kill --signal=KILL edge; systemctl stop edge", check=False)
        super().kill()

    def back_up(self, backup: Path) -> None:
        """Copy configuration and data of the gateway, which does not run."""
        shutil.copytree(self.config_dir, backup / "conf.d")
        subprocess.run(["cp", "-a", self.data_dir, backup / "data"], check=True)

    def empty(self) -> None:
        """Of the old machine nothing is left; with the package alone it stands for the new one."""
        gone = "rm -rf /etc/edge/conf.d/* /etc/edge/conf.d/.[!.]* /var/lib/edge/* /var/lib/edge/.[!.]*"
        self.machine.run("sh", "-c", gone)
        assert not [*self.config_dir.iterdir(), *self.data_dir.iterdir()]

    def put_back(self, backup: Path) -> None:
        """As the guide has it: /etc/edge, then /var/lib/edge, whose files are the user's."""
        shutil.copytree(backup / "conf.d", self.config_dir, dirs_exist_ok=True)
        subprocess.run(["cp", "-a", f"{backup}/data/.", self.data_dir], check=True)
        self.machine.run("chown", "--recursive", "edge:", "/var/lib/edge")
        assert self.cli("check").returncode in (0, 1), "warnings at most"
        for command in ("recover", "verify"):
            done = self.cli(command)
            assert done.returncode == 0, done.stdout + done.stderr


def let_wait(data: Path, seconds: float) -> None:
    """What waits in a catalog has waited so long."""
    with closing(sqlite3.connect(data / "catalog.db")) as conn, conn:
        conn.execute("UPDATE delivery SET queued_at = queued_at - ?", (seconds,))
