"""The spool: immutable files under names of our own, on the data directory's own file system.

    incoming/<id>.part          being received; removed at start: it was never acknowledged
    spool/<YYYYMMDDHH>/<id>.dcm whole and synced before it got this name

Promise: `Partial.finish` returns only when the file's bytes are on stable storage; the name itself is durable once
the returned bucket is synced, which the database does before its commit. A failed write or sync raises StorageFull
(no room), Shortage (what heals by itself, once it has lasted for a while) or StorageUnhealthy (anything else); a failed
sync is never repeated on the same file.

One bucket an hour: those who finish together share one directory and so one directory sync.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edge.dicom import part10
from edge.errors import Cause, StorageUnhealthy, hindrance
from edge.model import ContextKey, Origin
from edge.spool.room import ROOM_EVERY

if TYPE_CHECKING:
    import xxhash

log = logging.getLogger(__name__)

#: Below the data directory: what paths of the catalog are relative to.
SPOOL_FOLDER = "spool"
#: Where damaged files are kept, in the data directory.
DAMAGED_FOLDER = "damaged"
#: One buffer of this size is used again and again: fresh memory for each read costs as much as half the hashing.
HASH_CHUNK = 256 << 10
#: Files that apply has written at the same time: SHA-256 is most of the work, and needs a processor for each.
HELPERS = min(4, len(os.sched_getaffinity(0)))
IOV_MAX = 1024
#: What a sync may lack without the disk being broken: its file is refused then, and goes.
MAY_STOP_A_SYNC = frozenset({Cause.BYTES, Cause.INODES, Cause.QUOTA, Cause.MEMORY, Cause.BUSY})
BUCKET_NAME = "%Y%m%d%H"


class Bucket:
    """One directory of the spool; the barrier that makes new names in it durable."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self._fd = hindrance.retry_shortages(lambda: os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        weakref.finalize(self, os.close, self._fd)

    def sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise StorageUnhealthy(f"sync of {self.path} failed ({error.strerror})") from error


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole, synced file under its final name; durable once `bucket` is synced."""

    path: str  # below the spool
    size: int
    dataset_offset: int
    sha256: bytes
    bucket: Bucket | None = None  # None: durable once the file system is synced
    xxh3: bytes | None = None  # XXH3-128 of the data set, where it is known


class Partial:
    """A file that is being written."""

    def __init__(self, spool: Spool, head: bytes) -> None:
        self._spool = spool
        # In the order of arrival, which keeps the catalog's index of names in order too.
        self._name = f"{time.time_ns():016x}{secrets.token_hex(8)}"
        self._path = f"{spool.incoming}/{self._name}.part"
        self._hash = hashlib.sha256()
        self.dataset_offset, self.size = len(head), 0
        self._room_at = ROOM_EVERY
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with _storage_errors("create a file", self._path):
            self._fd = hindrance.retry_shortages(lambda: os.open(self._path, flags, 0o600))
        try:
            self._write([memoryview(head)])
        except BaseException:
            self.discard()
            raise

    def write(self, views: list[memoryview]) -> None:
        """Append fragments. Raises Hindered or StorageUnhealthy; the file is then to be discarded."""
        self._write(views)
        for view in views:
            self._hash.update(view)
        if self.size >= self._room_at:
            self._room_at = self.size + ROOM_EVERY
            self._spool.check_room()

    def _write(self, views: list[memoryview]) -> None:
        with _storage_errors("write a file", self._path):
            for start in range(0, len(views), IOV_MAX):
                _write_all(self._fd, views[start : start + IOV_MAX])
        self.size += sum(map(len, views))

    def finish(self) -> Stored:
        """Sync the file, then give it its final name."""
        with _storage_errors("sync a file", self._path, is_sync=True):
            os.fsync(self._fd)
        bucket = self._spool.bucket()
        name = f"{bucket.name}/{self._name}.dcm"
        final = f"{self._spool.root}/{name}"
        with _storage_errors("rename a file", self._path):
            os.rename(self._path, final)
            self._path = final
        os.close(self._fd)
        self._fd = -1
        return Stored(name, self.size, self.dataset_offset, self._hash.digest(), bucket)

    def discard(self) -> None:
        """Delete the file, under its present name."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        Path(self._path).unlink(missing_ok=True)


class Spool:
    """The directories `incoming` and `spool` of the data directory."""

    def __init__(
        self, data_dir: Path, check_room: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.time
    ) -> None:
        """`check_room` raises StorageFull when no more bytes may be taken."""
        self.incoming = data_dir / "incoming"
        self.root = data_dir / SPOOL_FOLDER
        self.check_room = check_room
        self.helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="spool")
        self._clock = clock
        self._bucket: Bucket | None = None
        self._hour = 0  # since 1970, of that bucket
        for folder in (data_dir, self.incoming, self.root):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._sync_fd = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._sync_fd)
        Bucket(data_dir).sync()  # a failure of it is not tried again, whatever room is made

    @cached_property
    def node(self) -> str:
        """The name of this node in leases: one data directory is one node, on any host. Empty where it cannot be kept.

        It is durable before a lease has it, so a start after a power cut takes back what the run before had leased.
        """
        path = self.root.parent / "node"
        try:
            if path.exists() and (known := path.read_text("ascii").strip()):
                return known
            name, fresh = secrets.token_hex(8), path.with_suffix(".new")
            with fresh.open("w", encoding="ascii") as file:
                file.write(f"{name}\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
            Bucket(path.parent).sync()
        except (OSError, UnicodeDecodeError) as error:
            log.warning("the name of this node cannot be kept: %s", error)
            return ""
        return name

    def begin(self, context_key: ContextKey, sop_instance_uid: str, origin: Origin) -> Partial:
        """Start a file for an object that is about to arrive."""
        return Partial(self, part10.preamble_and_meta(context_key, sop_instance_uid, origin))

    def bucket(self) -> Bucket:
        """Get the directory of this hour, made durable when it is new."""
        now = self._clock()
        hour, current = int(now // 3600), self._bucket
        if current is None or hour != self._hour:
            path = self.root / time.strftime(BUCKET_NAME, time.gmtime(now))
            with _storage_errors("create a directory", path):
                hindrance.retry_shortages(lambda: _make_folder(path))
                root, bucket = Bucket(self.root), Bucket(path)
            root.sync()
            self._bucket, self._hour = bucket, hour
            return bucket
        return current

    @staticmethod
    def name_of(name: str, received_at: float) -> str:
        """The file of this name, below the spool."""
        return f"{time.strftime(BUCKET_NAME, time.gmtime(received_at))}/{name}.dcm"

    def take(self, path: Path, name: str) -> None:
        """Move a file of this file system under its name in the spool; durable after `sync_all`."""
        final = self.path_of(name)

        def move() -> None:
            _make_folder(final.parent)
            path.rename(final)

        with _storage_errors("move a file into the spool", self.root):
            try:
                with suppress(FileNotFoundError):  # an empty directory of long ago may be removed between the two
                    return hindrance.retry_shortages(move)
                hindrance.retry_shortages(move)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                raise StorageUnhealthy(f"{path.parent} and {self.root} must be on one file system") from error

    def put(self, name: str, received_at: float, prefix: bytes, bodies: Iterable[memoryview]) -> Stored:
        """Write a file under a name that is given; it is durable after `sync_all`. The same name again replaces it.

        Raises Hindered, StorageUnhealthy, and what `bodies` raises.
        """
        final = self.name_of(name, received_at)
        bucket = final.partition("/")[0]
        digest, size = hashlib.sha256(), len(prefix)
        with _storage_errors("write a file", self.root):
            fd, path = hindrance.retry_shortages(lambda: self._create(bucket, final))
            try:
                head = [memoryview(prefix)]
                for body in bodies:
                    _write_all(fd, [*head, body])
                    digest.update(body)
                    head, size = [], size + len(body)
                if head:
                    _write_all(fd, head)
            except BaseException:
                Path(path).unlink(missing_ok=True)
                raise
            finally:
                os.close(fd)
            if path != f"{self.root}/{final}":
                os.rename(path, self.path_of(final))
        return Stored(final, size, len(prefix), digest.digest())

    def _create(self, bucket: str, final: str) -> tuple[int, str]:
        """A new file under its final name; beside it where that is there: who reads it must not see half of it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        path = f"{self.root}/{final}"
        for _ in range(3):
            try:
                return os.open(path, flags | os.O_EXCL, 0o600), path
            except FileNotFoundError:
                _make_folder(self.root / bucket)
            except FileExistsError:
                path = f"{self.incoming}/{final[len(bucket) + 1 :]}.part"
                return os.open(path, flags | os.O_TRUNC, 0o600), path
        raise OSError(errno.EBUSY, "the directory is removed again and again")

    def sync_all(self) -> None:
        """Make durable all that `put` has written: syncfs(2), one for a batch. Raises Hindered, StorageUnhealthy."""
        with _storage_errors("sync the spool", self.root, is_sync=True):
            sync_file_system(self._sync_fd)

    def path_of(self, name: str) -> Path:
        return self.root / name

    def remove(self, name: str) -> None:
        """Delete a file of the spool; to be called after the catalog has let go of it."""
        self.path_of(name).unlink(missing_ok=True)

    def set_aside(self, name: str) -> Path | None:
        """Move a damaged file into `damaged`, for a person; None where there is none."""
        source, folder = self.path_of(name), self.root.parent / DAMAGED_FOLDER
        if not source.exists():
            return None
        _make_folder(folder)
        target = folder / source.name
        os.rename(source, target)
        Bucket(source.parent).sync()
        return target

    def drop_empty_buckets(self) -> None:
        """Remove the directories of past hours that hold nothing; not of the last two: a rename may be on its way."""
        settled = time.strftime(BUCKET_NAME, time.gmtime(self._clock() - 7200))
        for folder in self.root.iterdir():
            if folder.name < settled:
                try:
                    folder.rmdir()
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                        raise

    def drop_partials(self) -> int:
        """Remove files that were being received when the last run ended; none was acknowledged. Returns how many."""
        partials = list(self.incoming.glob("*.part"))
        for path in partials:
            path.unlink()
        return len(partials)

    def bucket_names(self) -> list[str]:
        """The directories of the spool, the oldest first."""
        return sorted(folder.name for folder in self.root.iterdir())

    def files(self, bucket: str) -> Iterator[tuple[str, os.stat_result]]:
        """List the files of one bucket as (name below the spool, stat), without those that are removed meanwhile."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / bucket) as entries:
            for entry in entries:
                if entry.name.endswith(".dcm"):
                    with suppress(FileNotFoundError):
                        yield f"{bucket}/{entry.name}", entry.stat()

    def read_meta(self, name: str) -> part10.Meta:
        """Read the File Meta Information of a spooled file. Raises Unreadable when it has none."""
        with self.path_of(name).open("rb") as file:
            return part10.parse_meta(file.read(part10.MAX_META))

    def digest(self, name: str, offset: int) -> bytes:
        """Compute the SHA-256 of a spooled data set from the disk."""
        with self.path_of(name).open("rb", buffering=0) as file:
            return digest_from(file.fileno(), offset, hashlib.sha256())

    def close(self) -> None:
        self.helpers.shutdown()


def digest_from(fd: int, offset: int, running: hashlib._Hash | xxhash.xxh3_128) -> bytes:
    """The digest of an open file, from `offset` on. Raises OSError."""
    buffer = memoryview(bytearray(HASH_CHUNK))
    while count := os.preadv(fd, [buffer], offset):
        running.update(buffer[:count])
        offset += count
    return running.digest()


def _make_folder(path: Path) -> None:
    """Make a directory where there is none. Path.mkdir would pass over a fault where another thread has made it."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)


def sync_file_system(fd: int) -> None:
    """syncfs(2) of the file system that holds an open file. Raises OSError, also for a write-back that failed."""
    if _LIBC.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_LIBC = ctypes.CDLL(None, use_errno=True)


def _write_all(fd: int, views: list[memoryview]) -> None:
    wanted = sum(map(len, views))
    done = os.writev(fd, views)
    while done < wanted:  # a short write: the disk is nearly full, or a signal came
        done += os.write(fd, b"".join(views)[done:])


class _storage_errors:
    """Turns an OSError of the storage into what it means. `operation` names no path, for scanners get it."""

    def __init__(self, operation: str, path: str | Path, *, is_sync: bool = False) -> None:
        self.operation, self.path, self.is_sync = operation, path, is_sync

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, OSError):
            return
        cause = hindrance.refine(hindrance.cause_of(error), Path(self.path).parent)
        is_broken = hindrance.classify_cause(cause) is hindrance.CauseClass.BROKEN
        if is_broken or (self.is_sync and cause not in MAY_STOP_A_SYNC):
            raise StorageUnhealthy(f"could not {self.operation}, {self.path}: {error.strerror}") from error
        raise hindrance.error_for(cause, f"could not {self.operation}") from error
