"""The instances that the web door may give: those of the catalog with their files, after earlier answers are applied.

Of what is asked for by name, that includes what only an archive has, which is brought here first
(edge.scp.dicomweb.archives). Who was shown which study is on record before anything is shown: a row of the ledger, by
the daemon, for each caller and study in _VIEW_SECONDS.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

from edge.dicom.elements import DEFLATED, plain_syntax
from edge.dicom.header import Inflated, Read, read_at, read_from, scan
from edge.dicom.pixel_data import PixelData, find_pixel_data
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.errors import Unreadable
from edge.query.located import Located
from edge.query.unapplied import JournalView
from edge.scp.dicomweb.archives import Elsewhere, WebArchives
from edge.scp.dicomweb.exchange import Exchange
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.gateway_link import reading_studies
from edge.scp.remote_link import RemoteLink
from edge.store import headers, held
from edge.store.held import HeldInstance
from edge.store.read_only import CatalogReader

#: What was answered before a request waits this long to be in the catalog.
_SETTLE_SECONDS, _SETTLE_PAUSE = 2.0, 0.003
#: A caller that is shown a study again within this time has one row.
_VIEW_SECONDS, _MOST_VIEWS = 600.0, 10_000
_MOST_INFLATED = 2 << 20
_FRAMES = 0x00280008
_KEPT = 256


@dataclass(frozen=True, slots=True)
class HeaderOfFile:
    """All before the pixel data, as it is encoded, and where that is; of a deflated one the first bytes, inflated."""

    data: bytes
    pixels: PixelData


@dataclass(frozen=True, slots=True)
class WantedInstances:
    """What an address names: what is here, what only an archive has, and which archives did not answer."""

    here: list[HeldInstance]
    missing: list[Located]
    left_out: tuple[str, ...] = ()
    asked_for: tuple[str, ...] = ()  # see Elsewhere; empty: `missing` is not all

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says of archives that did not answer."""
        if not self.left_out:
            return {}
        text = f"{', '.join(self.left_out)} did not answer: this is what the cache has"
        return {"Warning": f'299 edge "{text}"'}


def _check_found(here: Sequence[HeldInstance], left_out: Collection[str]) -> None:
    if here:
        return
    if left_out:
        text = f"The gateway does not have it, and {', '.join(left_out)} does not answer."
        raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": "30"})
    raise HttpError(HTTPStatus.NOT_FOUND, "The gateway does not have it, or not any more.")


class Holdings:
    """See the module's docstring. Thread-safe."""

    def __init__(
        self, reader: CatalogReader, spool: Path, journal: JournalView, link: RemoteLink, archives: WebArchives
    ) -> None:
        """`spool`: the folder that paths of the catalog are below."""
        self._reader, self._spool, self._journal, self._link = reader, spool, journal, link
        self._archives = archives
        self._viewed: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._pixels: OrderedDict[int, PixelData] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, exchange: Exchange, names: dict[str, str], access: str) -> list[HeldInstance]:
        """The instances that an address names, brought here where need be; that is on record.

        Raises HttpError: 404; 503 where an archive that may have it does not answer.
        """
        wanted = self.want(exchange, names, access)
        if wanted.missing:
            self.bring(exchange, wanted, access, lambda _: None)
            wanted = replace(wanted, here=self._find_here(names))
        _check_found(wanted.here, wanted.left_out)
        return wanted.here

    def find_some(self, exchange: Exchange, names: dict[str, str], access: str) -> list[HeldInstance]:
        """What is here of it; where nothing is, one instance of an archive."""
        wanted = self.want(exchange, names, access)
        if not wanted.here and wanted.missing:
            one = replace(wanted, missing=wanted.missing[len(wanted.missing) // 2 :][:1], asked_for=())
            self.bring(exchange, one, access, lambda _: None)
            wanted = replace(wanted, here=self._find_here(names))
        _check_found(wanted.here, wanted.left_out)
        return wanted.here

    def want(self, exchange: Exchange, names: dict[str, str], access: str) -> WantedInstances:
        """What is here of an address, which is on record, and what only an archive has. Raises HttpError as `find`."""
        self._settle()
        here = self._find_here(names)
        is_all = bool(here) and "instance" in names
        elsewhere = Elsewhere() if is_all else self._archives.find(names, is_some_here=bool(here))
        known = {each.sop_instance_uid for each in here}
        missing = [each for each in elsewhere.missing if each.sop_instance_uid not in known]
        if not missing:
            _check_found(here, elsewhere.left_out)
        self._note(exchange, {each.study_id for each in here}, access)
        return WantedInstances(here, missing, elsewhere.left_out, elsewhere.asked_for)

    def bring(
        self, exchange: Exchange, wanted: WantedInstances, access: str, take: Callable[[list[HeldInstance]], None]
    ) -> list[str]:
        """Have what is missing fetched; `take` gets some at a time. The UIDs of those that did not come."""
        by_uid = {each.sop_instance_uid: each for each in wanted.missing}

        def take_arrived(arrived: list[Located]) -> None:
            self._settle()
            there = [by_uid[each.sop_instance_uid] for each in arrived]
            found = [
                instance
                for each in there
                for instance in self._find_here(
                    {"study": each.study_uid, "series": each.series_uid, "instance": each.sop_instance_uid}
                )
            ]
            self._note(exchange, {each.study_id for each in found}, access)
            take(found)

        elsewhere = Elsewhere(tuple(wanted.missing), wanted.left_out, wanted.asked_for)
        return self._archives.bring(elsewhere, take_arrived)

    def _find_here(self, names: Mapping[str, str]) -> list[HeldInstance]:
        study, series, instance = (names.get(each, "") for each in ("study", "series", "instance"))
        with self._reader.reading() as conn:
            return held.find_held(conn, study, series, instance)

    def reading(self, instances: Sequence[HeldInstance]) -> AbstractContextManager[None]:
        """Inside, nothing of these studies is evicted."""
        return reading_studies(self._link, (each.study_id for each in instances))

    def whole_headers(self, found: Sequence[HeldInstance]) -> dict[int, bytes]:
        """Compact headers that have everything, by the number of the instance."""
        with self._reader.reading() as conn:
            return headers.read_whole_headers(conn, [each.id for each in found])

    def path_of(self, instance: HeldInstance) -> Path:
        return self._spool / instance.path

    @contextmanager
    def reading_of(self, instance: HeldInstance) -> Iterator[Read]:
        """Reads of its data set, from the file. Raises OSError."""
        fd = os.open(f"{self._spool}/{instance.path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield read_at(fd, instance.dataset_offset)
        finally:
            os.close(fd)

    def read_header(self, instance: HeldInstance) -> HeaderOfFile:
        """Everything before the pixel data, from the file. Raises Unreadable or OSError."""
        with self.reading_of(instance) as read:
            if instance.transfer_syntax_uid in DEFLATED:
                data = Inflated(read).read(0, _MOST_INFLATED)
                return HeaderOfFile(data, find_pixel_data(read_from(data), len(data), EXPLICIT_VR_LITTLE_ENDIAN))
            pixels = self.find_pixels(instance, read)
            return HeaderOfFile(read(0, pixels.header_bytes), pixels)

    def find_pixels(self, instance: HeldInstance, read: Read, begin: int = 0) -> PixelData:
        """Where the pixel data is. `begin`: an element before it, where that is known. Raises Unreadable or OSError."""
        pixels = find_pixel_data(read, instance.data_set_bytes, instance.transfer_syntax_uid, begin)
        with self._lock:
            self._pixels[instance.id] = pixels
            while len(self._pixels) > _KEPT:
                self._pixels.popitem(last=False)
        return pixels

    def frames_of(self, instance: HeldInstance) -> int:
        """How many frames it has, also where the catalog does not know that yet. Raises Unreadable or OSError."""
        if instance.frames is not None:
            return instance.frames or 1
        header, syntax = self.read_header(instance).data, plain_syntax(instance.transfer_syntax_uid)
        said = scan(lambda at, n: header[at : at + n], len(header), syntax, frozenset({_FRAMES}))
        text = "".join(said.get(_FRAMES, ())[:1])
        return int(text) if text.isdigit() and int(text) else 1

    def pixels_of(self, instance: HeldInstance) -> PixelData:
        """Where the pixel data is. Raises Unreadable or OSError."""
        with self._lock:
            if (kept := self._pixels.get(instance.id)) is not None:
                return kept
        if instance.transfer_syntax_uid in DEFLATED:
            raise Unreadable("it is deflated")
        return self.read_header(instance).pixels

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
