"""What every command needs: the configuration, the daemon where it runs, the catalog where it does not."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click

from edge import config, control, hindrance, person
from edge.config.sections import Config
from edge.control import DaemonDown
from edge.errors import Cause, ConfigError, EdgeError
from edge.store import access_log, database, wal_index
from edge.store.database import Connection, Database
from edge.store.sqlite_file import migrations, version_of

INSTALLED = Path("/etc/edge/conf.d")
SAMPLE = Path("conf.d")
CATALOG = "catalog.db"
#: Whoever writes the catalog holds this file locked.
LOCK = "edge.lock"
#: Studies in one request to the daemon.
MAX_STUDIES = 1_000

Command = TypeVar("Command", bound=Callable[..., Any])


class OtherVersion(EdgeError):
    """The catalog is of another version than the command."""


class Session:
    """One run of the command; what it needs is opened when it is first asked for."""

    def __init__(self) -> None:
        self.given: Path | None = None
        self._index: int | None = None

    @cached_property
    def directory(self) -> Path:
        """Where the configuration lies."""
        named = self.given or os.environ.get("EDGE_CONFIG")
        return Path(named or (INSTALLED if INSTALLED.is_dir() else SAMPLE))

    @cached_property
    def config(self) -> Config:
        return config.load(self.directory)

    @cached_property
    def data_dir(self) -> Path:
        return self.config.site.data_dir

    def forgive(self) -> None:
        """Where the configuration on disk has mistakes, find the running gateway all the same, and say so.

        Raises ConfigError where it names no data directory, or where no gateway runs on it.
        """
        try:
            self.config  # noqa: B018
        except ConfigError as error:
            data_dir = config.data_dir_of(self.directory)
            if data_dir is None or not _answers(data_dir):
                raise
            self.data_dir = data_dir
            note(f"{error.problems[0]}; `edge check` names every mistake, this is how the running gateway is")

    def ask(self, command: str, **args: object) -> dict[str, Any]:
        """Have the daemon do something; raises DaemonDown where none runs."""
        return control.call(self.data_dir, command, **args)

    @cached_property
    def daemon_runs(self) -> bool:
        try:
            self.ask("ping")
        except DaemonDown:
            return False
        return True

    @contextmanager
    def catalog(self) -> Iterator[Connection]:
        """The catalog, read only, one consistent view; an empty one where the gateway has never run."""
        if not self.daemon_runs:
            note(f"the gateway is down; this is what its catalog in {self.data_dir} says")
        with self.quiet_catalog() as conn:
            yield conn

    @contextmanager
    def quiet_catalog(self) -> Iterator[Connection]:
        """The same, where it is said otherwise that the gateway is down."""
        conn = self._open()
        try:
            conn.execute("BEGIN")
            self._check_version(conn)
            yield conn
        except sqlite3.Error as error:
            raise EdgeError(f"the catalog {self._path} cannot be read: {error}") from None
        finally:
            conn.close()

    @property
    def _path(self) -> Path:
        return self.data_dir / CATALOG

    def _open(self) -> Connection:
        try:
            if self.has_catalog:
                return self._connect()
        except (OSError, sqlite3.Error) as error:
            cause = hindrance.refine(hindrance.cause_of(error), self.data_dir)
            if hindrance.verdict_of(cause) is hindrance.Verdict.FULL:
                text = f"the catalog {self._path} cannot be opened: the gateway is {hindrance.words_of(cause)}"
                room = f"make room on the file system of {self.data_dir}"
                remedy = hindrance.remedy_of(cause) if cause is Cause.READ_ONLY else room
                raise EdgeError(f"{text}; {remedy}") from None
            raise EdgeError(
                f"the catalog {self._path} cannot be opened: {error}; run this as its owner, edge"
            ) from None
        note(f"there is no catalog in {self.data_dir}: the gateway has never run with this configuration")
        conn = database.connect(Path(":memory:"))
        database.migrate(conn)
        return conn

    def _connect(self) -> Connection:
        """The index of its log is laid out where no gateway has done it, and stays so until this process ends."""
        try:
            if self._index is None and not Path(f"{self._path}-shm").exists():
                self._index = wal_index.lay_out(self._path)
        except OSError as error:
            log = Path(f"{self._path}-wal")
            if error.errno != errno.EROFS or (log.exists() and log.stat().st_size):
                raise
            return database.connect(
                self._path, read_only=True, immutable=True
            )  # stopped in order, and nobody can write
        return database.connect(self._path, read_only=True)

    def _check_version(self, conn: Connection) -> None:
        """Raises OtherVersion for a catalog that this version of the command cannot read."""
        seen, needed = version_of(conn), max(migrations())
        if seen == needed:
            return
        if seen > needed:
            raise OtherVersion(f"the catalog {self._path} was written by a newer edge: use the command of that version")
        raise OtherVersion(
            f"the catalog {self._path} is still that of an older edge, for the gateway has not been started since the"
            " upgrade: `systemctl restart edge` brings it up to date; what it holds is safe"
        )

    @property
    def has_catalog(self) -> bool:
        return self._path.exists()

    def change(self, work: Callable[[Connection], int]) -> int:
        """Change the catalog in one transaction, where no daemon runs that could; none starts meanwhile."""
        with self.store() as database:
            return database.write(work)

    def looked(self, studies: Sequence[int], how: str) -> None:
        """Write into the ledger that somebody is shown these studies; a broken disk does not keep them from looking."""
        try:
            for at in range(0, len(studies), MAX_STUDIES):
                self._looked(list(studies[at : at + MAX_STUDIES]), how)
        except (EdgeError, OSError) as error:
            note(f"that you looked could not be recorded: {error}")

    def _looked(self, studies: list[int], how: str) -> None:
        if self.daemon_runs:
            self.ask("viewed", studies=studies, who=login(), why=how)
        else:
            self.change(lambda conn: access_log.viewed(conn, time.time(), login(), studies, how))

    @contextmanager
    def store(self) -> Iterator[Database]:
        """The catalog, to be changed, where no daemon runs."""
        with self.locked():
            database = Database(self._path)
            try:
                yield database
            finally:
                database.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The data directory is ours alone, as it is the daemon's while that runs."""
        try:
            lock = (self.data_dir / LOCK).open("ab")
        except FileNotFoundError:
            raise EdgeError(f"{self.data_dir} is not there: is site.data_dir right?") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "runs: stop it first" if self.daemon_runs else "is starting or stopping: try again in a moment"
                raise EdgeError(f"the gateway {what}") from None
            yield


def _answers(data_dir: Path) -> bool:
    try:
        control.call(data_dir, "ping")
    except EdgeError:
        return False
    return True


def note(text: str) -> None:
    """Say something beside the answer."""
    click.echo(f"edge: {text}", err=True)


def login() -> str:
    """Who asks, for the ledger: by the kernel, as the daemon sees it as well; never by the environment."""
    return person.here()


def _remember(context: click.Context, _parameter: click.Parameter, directory: Path | None) -> None:
    if directory is not None:
        context.ensure_object(Session).given = directory


def config_option(command: Command) -> Command:
    """`--config`, which is taken before and after the name of a command."""
    option = click.option(
        "--config",
        metavar="DIR",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_remember,
        help="Directory of the configuration (or EDGE_CONFIG).  [default: /etc/edge/conf.d, else conf.d]",
    )
    return option(command)


json_option = click.option("as_json", "--json", is_flag=True, help="JSON, for programs; its keys are stable.")
