"""A real PostgreSQL for tests: Debian's, in a directory of its own, on a Unix socket that nobody else sees."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from tests.support.peers import requires

#: Where Debian keeps the programs of each version.
DEBIAN = Path("/usr/lib/postgresql")


def program(name: str) -> str:
    """The newest that is installed, else the test is skipped (or fails where CI=true)."""
    found = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1]) if found else requires(name)


class Postgres:
    """A server that runs inside `with`. It refuses to run as root, so root runs it as Debian's user postgres."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="edge-pg-"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._data = self.directory / "data"

    @property
    def url(self) -> str:
        """As an operator writes it."""
        return f"postgresql://edge@/postgres?host={self.directory}"

    def empty(self) -> str:
        """The URL, after everything in the database is gone."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute("DROP SCHEMA public CASCADE")
            conn.execute("CREATE SCHEMA public")
        return self.url

    def __enter__(self) -> Postgres:
        try:
            self._run("initdb", "-A", "trust", "-U", "edge", "--no-sync", "-D", str(self._data))
            # Nobody cuts its power: what it syncs, a test waits for.
            options = f"-c listen_addresses='' -c fsync=off -k {self.directory}"
            self._run("pg_ctl", "-w", "-D", str(self._data), "-l", str(self.directory / "log"), "-o", options, "start")
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-w", "-D", str(self._data), "-m", "immediate", "stop")
        shutil.rmtree(self.directory)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [program(name), *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
            **self._user,
        )
        assert done.returncode == 0, done.stderr.decode()
