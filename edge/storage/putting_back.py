"""`edge recover --back-to`: put back the catalog from before an upgrade, so that the older release can be installed."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

from edge.errors import EdgeError
from edge.journal.ring import JOURNAL_FOLDER
from edge.storage.journal_tail import has_unapplied
from edge.storage.verify import remember_versions, writing_versions
from edge.store import folded_files, journal_progress
from edge.store.database import Store, connect
from edge.store.kept_catalog import SCHEMA_SINCE, kept_in
from edge.store.sqlite_file import sync_path


def reads_this_catalog(release: str) -> bool:
    """Does that release (as "0.1.0") know the schema of this one? Raises ValueError where it is no version."""
    return _numbers(release) >= _numbers(SCHEMA_SINCE)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.partition("~")[0].partition("-")[0].split("."))


def put_back(catalog: Path) -> Path:
    """Put the kept catalog in the place of the newer one; returns the folder where that and its journal are now.

    The caller has locked the data directory. Interrupted at any moment: until the catalog is replaced, the newer
    release starts on what is there; from then on the older one does. Raises EdgeError, OSError.
    """
    data_dir, kept = catalog.parent, kept_in(catalog.parent) / catalog.name
    if not kept.exists():
        raise EdgeError(
            f"no catalog from before {SCHEMA_SINCE} is kept in {data_dir}: an older release cannot read this one"
        )
    with closing(connect(kept)) as conn:  # whose files the older release will find
        remember_versions(conn, _check_journal(catalog))
    aside = data_dir / time.strftime("replaced-%Y%m%d-%H%M%S", time.gmtime())
    aside.mkdir(mode=0o700)
    # What is applied must not be applied again after the next upgrade. The older release writes its ledger copy again.
    _move(data_dir / JOURNAL_FOLDER, aside)
    os.link(catalog, aside / catalog.name)
    sync_path(aside)
    os.rename(kept, catalog)
    sync_path(data_dir)
    _move(data_dir / folded_files.FOLDER, aside)
    for applied in (aside / JOURNAL_FOLDER).glob("*.seg"):
        applied.unlink()
    return aside


def _check_journal(catalog: Path) -> frozenset[str]:
    """Raises EdgeError where the journal is not applied. Behind it the catalog's log is in its file; who wrote here."""
    db = Store(catalog)
    try:
        if has_unapplied(catalog.parent, db.read(journal_progress.read_applied)):
            raise EdgeError(
                "the journal has images that are not in the catalog: start this release, stop it, try again"
            )
        return db.read(writing_versions)
    finally:
        db.close()


def _move(path: Path, folder: Path) -> None:
    if path.exists():
        path.rename(folder / path.name)
        sync_path(path.parent)
