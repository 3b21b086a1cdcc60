"""The catalog as an older release left it, kept before a newer one changes its schema.

    before-0.2.0/catalog.db   a copy made before the migrations that came with 0.2.0; one at a time

Objects are not in it. Those that came after the copy are files of the spool, which any release imports.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from edge.store.sqlite_file import sync_path, uri_of, version_of

log = logging.getLogger(__name__)

#: The first release that has the newest migration: older ones do not know this schema.
SCHEMA_SINCE = "0.2.0"
#: The copy is made where there is room for this many times the catalog: the migrations need room, too.
ROOM_TIMES = 3


def kept_in(data_dir: Path) -> Path:
    return data_dir / f"before-{SCHEMA_SINCE}"


def keep_catalog(conn: sqlite3.Connection, path: Path) -> None:
    """Copy the catalog behind `conn`, log included, before it is migrated. Without room for that, say so and go on.

    Raises OSError, sqlite3.Error, StorageUnhealthy.
    """
    if not version_of(conn):
        return  # it is new
    (size,) = conn.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
    room = os.statvfs(path.parent)
    if room.f_bavail * room.f_frsize < ROOM_TIMES * size:
        log.error("no room to keep a copy of the catalog: no release before %s can be installed again", SCHEMA_SINCE)
        return
    folder = kept_in(path.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    part = folder / f"{path.name}.part"
    part.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(uri_of(part, "rwc"), uri=True)) as copy:
            copy.execute("PRAGMA synchronous = OFF")  # it is synced as a whole
            conn.backup(copy)
        part.chmod(0o600)
        sync_path(part)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.rename(folder / path.name)
    sync_path(folder)
    sync_path(path.parent)
    for older in path.parent.glob("before-*"):
        if older != folder:
            shutil.rmtree(older)
