"""The context of every command: the configuration, the daemon where it runs, the catalog where it does not."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from edge import config
from edge.config.sections import Config
from edge.daemon import control, person
from edge.daemon.control import CommandRefused, DaemonDown
from edge.errors import CatalogDamaged, CatalogError, Cause, ConfigError, EdgeError, Hindered, hindrance
from edge.storage.journal_tail import RecordedObject, Tail, read_tail
from edge.store import journal_progress
from edge.store.database import Store, Transaction
from edge.store.file_reader import FileReader
from edge.store.ledger_copy import Journal
from edge.store.sqlite_file import Schema, compare_schema, open_empty_catalog
from edge.text import amount

INSTALLED_CONFIG = Path("/etc/edge/conf.d")
SAMPLE = Path("conf.d")
CATALOG_FILE = "catalog.db"
#: The process that writes the catalog locks this file.
LOCK = "edge.lock"

#: Studies in one request to the daemon.
MAX_STUDIES = 1_000


class OtherVersion(EdgeError):
    """The catalog is of another version than the command."""


class CommandSession:
    """One run of the command; what it needs is opened when it is first asked for."""

    def __init__(self) -> None:
        self.given: Path | None = None
        self._tail: Tail | None = None

    @cached_property
    def directory(self) -> Path:
        """The directory of the configuration."""
        named = self.given or os.environ.get("EDGE_CONFIG")
        return Path(named or (INSTALLED_CONFIG if INSTALLED_CONFIG.is_dir() else SAMPLE))

    @cached_property
    def config(self) -> Config:
        """The configuration of the files; where they have mistakes, that with which the gateway runs.

        Raises ConfigError where no gateway runs on the data directory that they name.
        """
        if not isinstance(self._files, ConfigError):
            return self._files
        used = control.call(self.data_dir, "configuration")["files"]
        if not used:
            raise self._files
        return config.load_config(self.directory, used)

    @cached_property
    def data_dir(self) -> Path:
        if not isinstance(self._files, ConfigError):
            return self._files.site.data_dir
        found = config.data_dir_of(self.directory)
        if found is None or not _answers(found):
            raise self._files
        first = self._files.problems[0]
        print_note(f"{first}; `edge check` names every mistake, the gateway runs with what it has read before")
        return found

    @cached_property
    def _files(self) -> Config | ConfigError:
        """What the files say, or their mistakes."""
        try:
            return config.load_config(self.directory)
        except ConfigError as error:
            return error

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

    def has_unread_files(self) -> bool:
        """Do the files of the configuration differ from those with which the gateway runs?"""
        from edge.config.edit import read_files  # noqa: PLC0415 - few commands need it

        try:
            used = self.ask("configuration")["files"]
            return bool(used) and read_files(self.directory) != used
        except (EdgeError, OSError):
            return False  # none runs, or the files cannot be read

    @contextmanager
    def catalog(self) -> Iterator[Transaction]:
        """The catalog, read only, one consistent view; an empty one where the gateway has never run."""
        if self.daemon_runs:
            self._settle()
        elif self.has_catalog:
            print_note(f"the gateway is down; this is what its catalog in {self.data_dir} says")
        with self.quiet_catalog() as conn:
            if damage := self.find_damage(conn):
                print_note(f"the catalog is damaged, so this is not all: {damage}; type `edge recover`")
            elif objects := self.tail(conn).objects:
                more = f"{amount(len(objects), 'more image')} {'is' if len(objects) == 1 else 'are'}"
                print_note(f"{more} recorded in the journal; the next start stores them")
            yield conn

    def _settle(self) -> None:
        try:
            if self.ask("settle")["settled"]:
                return
        except CommandRefused:  # of a version that is replaced by ours with the next start
            return
        print_note("images that came last still wait in the journal and are not in this answer; see `edge status`")

    def tail(self, conn: Transaction) -> Tail:
        """What was answered and is not in the catalog; nothing while the gateway runs, which enters it."""
        if self._tail is None:
            self._tail = self.read_tail(conn)
        return self._tail

    def read_tail(self, conn: Transaction) -> Tail:
        """The same as it is now: who asks again and again sees starts of the gateway."""
        return Tail() if self.daemon_runs else read_tail(self.data_dir, journal_progress.read_applied(conn))

    def find_damage(self, conn: Transaction) -> str:
        """What the catalog has lost, by the ledger's copy; empty while the gateway runs: its start has compared."""
        return "" if self.daemon_runs else Journal(self.data_dir).find_vanished(conn)

    def recorded_of(self, conn: Transaction, study_uid: str) -> list[RecordedObject]:
        """List the images of a study that the next start stores."""
        return [each for each in self.tail(conn).objects if each.study_uid == study_uid]

    @contextmanager
    def quiet_catalog(self) -> Iterator[Transaction]:
        """The same, where it is said otherwise that the gateway is down."""
        conn = self._open()
        with self._reader.reading(conn):
            self._check_version(conn)
            yield conn

    @cached_property
    def _reader(self) -> FileReader:
        return FileReader(self._path)

    @property
    def _path(self) -> Path:
        return self.data_dir / CATALOG_FILE

    def _open(self) -> Transaction:
        try:
            if self.has_catalog:
                return self._reader.open()
        except (OSError, Hindered, CatalogError, CatalogDamaged) as error:
            cause = hindrance.refine(hindrance.cause_of(error), self.data_dir)
            if hindrance.classify_cause(cause) is hindrance.CauseClass.FULL:
                text = f"the catalog {self._path} cannot be opened: the gateway is {hindrance.words_of(cause)}"
                room = f"make room on the file system of {self.data_dir}"
                remedy = hindrance.remedy_of(cause) if cause is Cause.READ_ONLY else room
                raise EdgeError(f"{text}; {remedy}") from None
            raise EdgeError(
                f"the catalog {self._path} cannot be opened: {error.__cause__ or error}; run this as its owner, edge"
            ) from None
        print_note(self._no_catalog)
        return open_empty_catalog()

    def require_catalog(self) -> None:
        """Raise EdgeError where there is no catalog: one that root had made, the gateway could not open."""
        if not self.has_catalog:
            raise EdgeError(self._no_catalog)

    @property
    def _no_catalog(self) -> str:
        never = f"there is no catalog in {self.data_dir}: the gateway has never run with this configuration"
        return f"{never}, or the disk of site.data_dir is not mounted"

    def _check_version(self, conn: Transaction) -> None:
        """Raises OtherVersion for a catalog that this version of the command cannot read."""
        found = compare_schema(conn)
        if found is Schema.SAME:
            return
        if found is Schema.NEWER:
            raise OtherVersion(f"the catalog {self._path} was written by a newer edge: use the command of that version")
        raise OtherVersion(
            f"the catalog {self._path} is still that of an older edge, for the gateway has not been started since the"
            " upgrade: `systemctl restart edge` brings it up to date; what it holds is safe"
        )

    @property
    def has_catalog(self) -> bool:
        return self._path.exists()

    def change(self, command: str, **fields: object) -> dict[str, Any]:
        """Carry out a change (edge.daemon.changes): by the daemon where it runs, which acts at once; else here."""
        if self.daemon_runs:
            return self.ask(command, **fields)
        self.require_catalog()
        from edge.daemon.changes import CHANGES  # noqa: PLC0415 - with all that can be changed

        with self.store() as database:
            return CHANGES[command](database, {**fields, "who": login()})

    def change_configuration(self, name: str, /, **fields: object) -> dict[str, Any]:
        """Change the files of the configuration: by the daemon where it runs, which reads them at once; else here.

        Raises ConfigError where they have mistakes: these are corrected first.
        """
        if isinstance(self._files, ConfigError):
            raise self._files
        if self.daemon_runs:
            return self.ask(f"configuration-{name}", **fields)
        from edge.daemon.configuring import Configuring  # noqa: PLC0415 - only what changes something needs it

        return Configuring(self.directory).change(name, {**fields, "who": login()})

    def record_access(self, studies: Sequence[int], how: str) -> None:
        """Record in the ledger that a person is shown these studies. A failure is printed, and does not raise."""
        try:
            for at in range(0, len(studies), MAX_STUDIES):
                self.change("viewed", studies=list(studies[at : at + MAX_STUDIES]), why=how)
        except (EdgeError, OSError) as error:
            print_note(f"the access could not be recorded: {error}")

    def record_list(self, how: str) -> None:
        """Record in the ledger that a person is shown patients of no study. A failure is printed alone."""
        if not self.daemon_runs and not self.has_catalog:
            return  # it shows nobody
        try:
            self.change("viewed", studies=[], why=how)
        except (EdgeError, OSError) as error:
            print_note(f"the access could not be recorded: {error}")

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The catalog, to be changed, where no daemon runs."""
        with self.lock_data_dir():
            database = Store(self._path)
            try:
                yield database
            finally:
                database.close()

    @contextmanager
    def lock_data_dir(self) -> Iterator[None]:
        """Lock the data directory, as the daemon does while it runs."""
        try:
            lock = (self.data_dir / LOCK).open("ab")
        except FileNotFoundError:
            raise EdgeError(f"{self.data_dir} does not exist; check site.data_dir") from None
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


def print_note(text: str) -> None:
    """Say something beside the answer. A terminal gets it wrapped between words."""
    text = f"edge: {text}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        lines = (
            textwrap.wrap(each, width, break_long_words=False, break_on_hyphens=False) for each in text.split("\n")
        )
        text = "\n".join("\n".join(each) for each in lines)
    click.echo(text, err=True)


def login() -> str:
    """Who asks, for the ledger: by the kernel, as the daemon sees it as well; never by the environment."""
    return person.process_user()


def _remember(context: click.Context, _parameter: click.Parameter, directory: Path | None) -> None:
    if directory is not None:
        context.ensure_object(CommandSession).given = directory


def add_config_option(command: click.Command) -> None:
    """Let a command and those in it take `--config`, before and after their names."""
    if all(each.name != "config" for each in command.params):
        command.params.append(
            click.Option(
                ["--config"],
                metavar="DIR",
                type=click.Path(path_type=Path),
                expose_value=False,
                callback=_remember,
                help="Directory of the configuration (or EDGE_CONFIG).  [default: /etc/edge/conf.d, else conf.d]",
            )
        )
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        add_config_option(each)


json_option = click.option("as_json", "--json", is_flag=True, help="JSON, for programs; its keys are stable.")
