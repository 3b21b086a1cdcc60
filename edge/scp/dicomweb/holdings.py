"""What the web door may give away: instances of the catalog with their files, once what was answered before is in it.

Who was shown which study is on record before anything is shown: a row of the ledger, by the daemon, for each caller and
study in _VIEW_SECONDS.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from edge.dicom.elements import DEFLATED
from edge.dicom.header import Inflated, Read
from edge.dicom.pixel_data import PixelData, find_pixel_data
from edge.errors import Unreadable
from edge.query.unapplied import JournalView
from edge.scp.dicomweb.exchange import Exchange
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.link import RemoteLink
from edge.store import headers, held
from edge.store.held import HeldInstance
from edge.store.read_only import CatalogReader

#: What was answered before a request waits this long to be in the catalog.
_SETTLE_SECONDS, _SETTLE_PAUSE = 2.0, 0.003
#: A caller that is shown a study again within this time has one row.
_VIEW_SECONDS, _MOST_VIEWS = 600.0, 10_000
_MOST_INFLATED = 2 << 20
_KEPT = 256


def read_at(fd: int, offset: int) -> Read:
    """Reads of a data set that begins at `offset` of a file."""
    return lambda at, n: os.pread(fd, n, offset + at)


@dataclass(frozen=True, slots=True)
class HeaderOfFile:
    """All before the pixel data, as it is encoded, and where that is."""

    data: bytes
    pixels: PixelData


class Holdings:
    """See the module's docstring. Thread-safe."""

    def __init__(self, reader: CatalogReader, spool: Path, journal: JournalView, link: RemoteLink) -> None:
        """`spool`: the folder that paths of the catalog are below."""
        self._reader, self._spool, self._journal, self._link = reader, spool, journal, link
        self._viewed: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._pixels: OrderedDict[int, PixelData] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, exchange: Exchange, names: dict[str, str], access: str) -> list[HeldInstance]:
        """The instances that an address names, and that is on record. Raises HttpError: 404."""
        self._settle()
        study, series, instance = (names.get(each, "") for each in ("study", "series", "instance"))
        with self._reader.reading() as conn:
            found = held.find_held(conn, study, series, instance)
        if not found:
            raise HttpError(HTTPStatus.NOT_FOUND, "The gateway does not have it, or not any more.")
        self._note(exchange, {each.study_id for each in found}, access)
        return found

    def whole_headers(self, found: Sequence[HeldInstance]) -> dict[int, bytes]:
        """Compact headers that have everything, by the number of the instance."""
        with self._reader.reading() as conn:
            return headers.read_whole_headers(conn, [each.id for each in found])

    def path_of(self, instance: HeldInstance) -> Path:
        return self._spool / instance.path

    def read_header(self, instance: HeldInstance) -> HeaderOfFile:
        """Everything before the pixel data, from the file. Raises Unreadable or OSError."""
        fd = os.open(self.path_of(instance), os.O_RDONLY | os.O_CLOEXEC)
        try:
            read = read_at(fd, instance.dataset_offset)
            syntax = instance.transfer_syntax_uid
            if syntax in DEFLATED:
                return HeaderOfFile(Inflated(read).read(0, _MOST_INFLATED), PixelData(0))
            pixels = find_pixel_data(read, instance.data_set_bytes, syntax)
            self._keep(instance, pixels)
            return HeaderOfFile(read(0, pixels.header_bytes), pixels)
        finally:
            os.close(fd)

    def pixels_of(self, instance: HeldInstance) -> PixelData:
        """Where the pixel data is. Raises Unreadable or OSError."""
        with self._lock:
            if (kept := self._pixels.get(instance.id)) is not None:
                return kept
        if instance.transfer_syntax_uid in DEFLATED:
            raise Unreadable("it is deflated")
        return self.read_header(instance).pixels

    def _keep(self, instance: HeldInstance, pixels: PixelData) -> None:
        with self._lock:
            self._pixels[instance.id] = pixels
            while len(self._pixels) > _KEPT:
                self._pixels.popitem(last=False)

    def _settle(self) -> None:
        mark, end = self._journal.mark(), time.monotonic() + _SETTLE_SECONDS
        while not self._journal.is_applied(mark) and time.monotonic() < end:
            time.sleep(_SETTLE_PAUSE)

    def _note(self, exchange: Exchange, studies: set[int], access: str) -> None:
        """Record who is shown them. Raises Hindered or StorageUnhealthy where that cannot be: then nothing is shown."""
        now, who = time.monotonic(), exchange.caller.name
        with self._lock:
            new = [each for each in studies if now - self._viewed.get((who, each), -_VIEW_SECONDS) >= _VIEW_SECONDS]
        if not new:
            return
        self._link.ask("record_views", who, exchange.address, access, sorted(new))
        with self._lock:
            for each in new:
                self._viewed[who, each] = now
                self._viewed.move_to_end((who, each))
            while len(self._viewed) > _MOST_VIEWS:
                self._viewed.popitem(last=False)
