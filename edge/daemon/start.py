"""The requirements of a start: the data directory for us alone, a whole catalog, certificates, free ports."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge import __version__
from edge.config.sections import Config
from edge.errors import CatalogDamaged, CatalogError, Cause, EdgeError, Hindered, NewerCatalog, hindrance
from edge.monitor.host import find_mount
from edge.network.tls import Keyring, TlsError
from edge.storage.rebuild import MARKER
from edge.storage.reserve import ReserveFile
from edge.store import wal_index
from edge.store.database import Store
from edge.store.ledger_copy import Journal
from edge.store.wal import is_gone, lost_commits, quick_check

log = logging.getLogger(__name__)
T = TypeVar("T")

#: The start spends this time on a search for damaged pages of the catalog; the scrub checks all of them.
QUICK_SECONDS = 0.3
#: Receiving processes of a run that was killed hold its lock until they have ended; another gateway does so for good.
DATA_LOCK_SECONDS = 2.0
#: File systems whose syncs do not mean what the promise needs.
REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "fuse.sshfs", "glusterfs"})
RECOVER = "type `edge recover`: it keeps the damaged one, and makes a new one of it, its journal and the spool"


_GO_BACK = (
    f"install that one again; its `edge recover --back-to {__version__}` puts back the catalog from before the upgrade"
)


class StartError(EdgeError):
    """The gateway cannot start; the text says why and what to do."""


def claim(data_dir: Path) -> int:
    """Make the data directory ours alone: one gateway writes it, on a local file system."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / "edge.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if hindrance.classify_cause(hindrance.cause_of(error)) is hindrance.CauseClass.BROKEN:
            text = f"site.data_dir {data_dir} cannot be used: {error.strerror}; create it for this user"
        else:
            text = f"site.data_dir {data_dir} cannot be used: {why_not(error, data_dir)}"
        raise StartError(text) from None
    end = time.monotonic() + DATA_LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > end:
                raise StartError(f"another gateway runs on {data_dir}; stop it first (`edge status` asks it)") from None
            time.sleep(0.05)
    _, kind = find_mount(data_dir)
    if kind in REMOTE:
        raise StartError(f"site.data_dir {data_dir} is on {kind}; it must be a local file system")
    if kind == "tmpfs":
        log.warning("site.data_dir %s is on tmpfs: everything in it is gone after a reboot", data_dir)
    return lock


def open_catalog(path: Path, reserve: ReserveFile) -> Store:
    if (path.parent / MARKER).exists():
        raise StartError(f"a recovery of {path} was interrupted: run `edge recover` again, then start")
    if is_gone(path):
        raise StartError(f"the catalog {path} is gone, but its log is there; {RECOVER}")
    try:
        reserve.spend(lambda: _check_catalog(path))
        return reserve.spend(lambda: Store(path, reserve.drop))
    except NewerCatalog as error:
        raise StartError(f"{error}: {_GO_BACK}") from None
    except CatalogDamaged as error:
        raise StartError(f"the catalog {path} is damaged ({error.found}); {RECOVER}") from None
    except (OSError, Hindered, CatalogError) as error:
        raise StartError(f"the catalog {path} cannot be opened: {why_not(error, path.parent)}") from None


def _check_catalog(path: Path) -> None:
    """Raises StartError or CatalogDamaged where a catalog is damaged."""
    if not path.exists():
        return
    with wal_index.laid_out(path):
        if lost_commits(path) > 1:
            raise StartError(f"the log of the catalog {path} is damaged; {RECOVER}")
        quick_check(path, QUICK_SECONDS)


def check_journal(db: Store, journal: Journal) -> None:
    """What was committed once must still be there."""
    with db.reading() as conn:
        vanished = journal.find_vanished(conn)
    if vanished:
        db.close()
        raise StartError(f"the catalog {db.path} is damaged: {vanished}; {RECOVER}")


def bind(what: str, build: Callable[[], T]) -> T:
    try:
        return build()
    except OSError as error:
        hint = _WHY_NOT_BOUND.get(error.errno or 0, "")
        raise StartError(f"{what}: the address cannot be bound: {error.strerror}{hint}") from None


def bind_all(*bindings: Callable[[], None]) -> None:
    """Bind every address. Raises StartError with all that cannot be bound, a line each."""
    faults = []
    for each in bindings:
        try:
            each()
        except StartError as error:
            faults.append(str(error))
    if faults:
        raise StartError("\n".join(faults))


_WHY_NOT_BOUND = {
    errno.EADDRINUSE: "; `sudo ss -ltnp` names the program that uses it",
    errno.EADDRNOTAVAIL: "; no interface of this machine has it: `ip address` lists those that there are",
    errno.ENODEV: "; there is no such interface: `ip address` lists those that there are",
    errno.EINVAL: "; a link-local address needs its interface behind it, as in fe80::1%eth0",
    errno.EACCES: "; ports below 1024 are opened by systemd: see edge.socket in the manual",
    socket.EAI_NONAME: "; it is not the name or address of an interface of this machine",
}


#: What helps where `edge queue list` cannot: nothing runs.
_ROOM_FIRST = "make room on the file system of data_dir"


def why_not(error: Exception, folder: Path) -> str:
    """Why a start fails, and what to do first."""
    cause = hindrance.refine(hindrance.cause_of(error), folder)
    verdict = hindrance.classify_cause(cause)
    if verdict is hindrance.CauseClass.BROKEN:
        return f"{error}; repair the disk, then start it again"
    remedy = _ROOM_FIRST if cause in (Cause.BYTES, Cause.INODES) else hindrance.remedy_of(cause)
    return f"the gateway is {hindrance.words_of(cause)}; {remedy}, then start it again"


def keyring(config: Config) -> Keyring | None:
    """Our certificates, where there is a [tls] table. Raises ConfigError."""
    if not config.tls.is_on:
        return None
    try:
        return Keyring(config.tls)
    except TlsError as error:
        raise error.as_config_error(config) from None
