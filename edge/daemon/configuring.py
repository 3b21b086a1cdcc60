"""Changes of the configuration by a command or a page: checked whole, written into the files, read again at once.

The files are the source of truth. A change is refused where they have mistakes, or differ from what the running
gateway has read: a person is editing them. Each state that was used is kept in the catalog, with who and why.

Limits: the gateway needs the right to write the directory (the package gives it); without it the refusal says so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import config as configuration
from edge.config import edit
from edge.config.change import FILE_CHANGES, change_files
from edge.config.edit import Files, NotEditable
from edge.config.sections import Config
from edge.errors import ConfigError, EdgeError
from edge.journal.segment import sync_folder
from edge.store import configuration_versions
from edge.store.configuration_versions import ConfigurationVersion
from edge.store.database import Store, Transaction

log = logging.getLogger(__name__)

#: Who changed files that no command and no page has changed.
BY_HAND = "files"
#: A change waits this long until the gateway has read it.
READ_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Author:
    """Who changed the files, and why."""

    who: str
    reason: str


class Configuring:
    """See the module's docstring. Thread-safe: one change at a time."""

    def __init__(
        self, directory: Path, store: Store | None = None, request_reload: Callable[[], None] = lambda: None
    ) -> None:
        """`store`: None where there is no catalog; `request_reload` has the running gateway read the files."""
        self._directory, self._store, self._request_reload = directory, store, request_reload
        self._lock = threading.Lock()
        self._authors: dict[str, Author] = {}
        self._read = threading.Condition()
        self._used: Files = {}
        self._digest = ""

    # -- the gateway's side -------------------------------------------------------------------------------------------

    def files(self) -> dict[str, str]:
        """The files for the history; none where they cannot be kept there, which stops no start."""
        try:
            return edit.read_files(self._directory)
        except (NotEditable, OSError) as error:
            log.warning("the history of the configuration has a gap: %s", error)
            return {}

    def author_of(self, files: Files) -> Author:
        """Who made this state of the files."""
        return self._authors.get(edit.digest_files(files), Author(BY_HAND, ""))

    def note_read(self, files: Files) -> None:
        """The gateway uses these files from now on."""
        with self._read:
            self._used, self._digest = files, edit.digest_files(files)
            self._authors.pop(self._digest, None)
            self._read.notify_all()

    def files_in_use(self) -> Files:
        """The files with which the gateway runs, whatever the directory has by now; none where they are not known."""
        with self._read:
            return self._used

    # -- changes ------------------------------------------------------------------------------------------------------

    def change(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Make one change (edge.config.change), or `rollback` to a kept state. Raises EdgeError."""
        who, reason = str(fields["who"]), str(fields.get("reason", "")).strip()
        if not reason:
            raise EdgeError("say why: a change of the configuration needs its reason")
        with self._lock:
            before, current = self._current()
            self._require_read(before)
            if name == "rollback":
                after = dict(self._version(int(fields["version"])).files)
            else:
                after = change_files(before, current, name, fields, who, time.time())
            return self._apply(before, after, Author(who, reason))

    def preview(self, name: str, fields: Mapping[str, Any]) -> list[str]:
        """The lines that a change would change, as `diff -u` shows them. Raises EdgeError, ConfigError."""
        before, current = self._current()
        after = change_files(before, current, name, {"reason": "preview", **fields}, "", time.time())
        self._check(after)
        return edit.differences(before, after)

    def _current(self) -> tuple[dict[str, str], Config]:
        try:
            before = edit.read_files(self._directory)
            return before, configuration.load_config(self._directory)
        except ConfigError as error:
            text = f"the files in {self._directory} have mistakes: correct these first"
            raise ConfigError([text, *error.problems]) from None

    def _require_read(self, files: Files) -> None:
        """Raise EdgeError where the running gateway has not read these files: a person decides when it does.

        Unless a change here has written them: what the gateway rejected then, the next change corrects.
        """
        digest = edit.digest_files(files)
        with self._read:
            is_by_hand = self._digest not in ("", digest) and digest not in self._authors
        if is_by_hand:
            raise EdgeError(
                f"the files in {self._directory} have changed since the gateway read them, and somebody may be editing"
                " them: `edge check`, `systemctl reload edge`, then try again"
            )

    def _version(self, number: int) -> ConfigurationVersion:
        if self._store is None:
            raise EdgeError("there is no catalog, so no earlier state is known")
        with self._store.reading() as conn:
            found = configuration_versions.find_version(conn, number)
        if found is None:
            raise EdgeError(f"there is no state {number} of the configuration")
        return found

    def _check(self, after: Files) -> Config:
        return edit.check_files(after, self._directory)

    def _apply(self, before: Files, after: Files, author: Author) -> dict[str, Any]:
        if before == after:
            raise EdgeError("nothing to change: the files have this content already")
        new = self._check(after)
        digest = edit.digest_files(after)
        self._authors = {digest: author}
        write_files(self._directory, before, after)
        self._request_reload()
        with self._read:
            is_read = self._read.wait_for(lambda: self._digest == digest, READ_SECONDS if self._store else 0.0)
        lines = edit.differences(before, after)
        return {"read": is_read, "difference": lines, "modalities": len(new.modalities), "routes": len(new.routes)}


def handlers_of(configuring: Configuring) -> dict[str, Callable[[dict[str, Any]], Mapping[str, Any]]]:
    """The commands of the control socket, by name."""

    def handler(name: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
        return lambda request: configuring.change(name, request)

    return {
        "configuration": lambda _: {"files": dict(configuring.files_in_use())},
        **{f"configuration-{name}": handler(name) for name in (*FILE_CHANGES, "rollback")},
    }


def record_state(conn: Transaction, files: Files, author: Author) -> None:
    """Keep the state that the gateway uses, where it differs from the last one."""
    if files:
        configuration_versions.record_version(
            conn, time.time(), author.who, author.reason, edit.digest_files(files), files
        )


# -- the files ---------------------------------------------------------------------------------------------------------


def write_files(directory: Path, before: Files, after: Files, *, mode: int = 0o640) -> None:
    """Write what differs, each file whole or not at all, and sync the directory. Raises EdgeError.

    `mode`: of new files; the others keep their own.
    """
    try:
        for name, text in after.items():
            if before.get(name) != text:
                _write(directory / name, text, mode)
        for name in before.keys() - after.keys():
            (directory / name).unlink()
        sync_folder(directory)
    except OSError as error:
        raise EdgeError(
            f"the gateway cannot write {directory}: {error.strerror}. Let its user write there"
            f" (chgrp edge {directory}; chmod 2770 {directory}; ReadWritePaths={directory} of the service), or edit the"
            " files by hand"
        ) from None


def _write(path: Path, text: str, mode: int) -> None:
    if path.exists():
        mode = path.stat().st_mode & 0o777
    part = path.with_name(f".{path.name}.new")
    with part.open("w", encoding="utf-8") as out:
        os.fchmod(out.fileno(), mode)
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, path)
