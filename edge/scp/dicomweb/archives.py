"""Studies that only an archive has, for WADO-RS: found by the process that answers queries, fetched as *cached*.

By the same code as C-MOVE and C-GET (edge.scp.fetch_through): two callers who want one study have it fetched once. An
archive that does not answer costs what its circuit allows (edge.query.archive), and is named to the caller.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from edge.config.sections import Config
from edge.dicom.items import encode_items, item
from edge.dicom.scu import Secure
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.query.asking import AskedQuery, Asker, NoAnswer
from edge.query.levels import tag_of
from edge.query.located import ALL_HERE, Located
from edge.query.matching import QUERY_LEVEL
from edge.scp.fetch_through import Carrier, ThroughFetch
from edge.scp.recorder import Recorder
from edge.scp.remote_link import RemoteLink

#: Where all that the archives have is here, they are not asked again within this time, unless all was evicted.
ASK_AGAIN_SECONDS = 30.0
_KEPT = 2000
_NAMES = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
_LEVELS = {1: "STUDY", 2: "SERIES", 3: "IMAGE"}

#: Takes what has come: UIDs of instances that are here now.
TakeArrived = Callable[[list[Located]], None]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What archives have of an address and the cache has not."""

    missing: tuple[Located, ...] = ()
    left_out: tuple[str, ...] = ()  # archives that did not answer
    asked_for: tuple[str, ...] = ()  # UIDs of the study, and of the series and instance where it was narrower


@dataclass(slots=True)
class WebFetchingDoor:
    """See edge.scp.fetch_through.FetchingDoor."""

    current_config: Callable[[], Config]
    asker: Asker
    recorder: Recorder
    link: RemoteLink
    room: Callable[[], None]
    client_for: Callable[[str], Secure | None]

    @property
    def config(self) -> Config:
        return self.current_config()

    @property
    def called_ae(self) -> str:
        return self.config.listen.ae_title

    def check_room(self) -> None:
        self.room()

    def secure_for(self, host: str) -> Secure | None:
        return self.client_for(host)


class WebArchives:
    """See the module's docstring. Thread-safe."""

    def __init__(self, door: WebFetchingDoor) -> None:
        self._door = door
        self._complete: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, names: Mapping[str, str], *, is_some_here: bool) -> Elsewhere:
        """What is missing here of a study, series or instance. `is_some_here`: instances of it are."""
        config = self._door.config
        if not config.query.through or not config.serves_queries:
            return Elsewhere()
        wanted = {_NAMES[each]: names[each] for each in _NAMES if each in names}
        if is_some_here and self._is_complete(tuple(wanted.values())):
            return Elsewhere()
        found = self._ask(wanted)
        if not found.missing:
            self._note_complete(found)
        return found

    def _ask(self, wanted: Mapping[str, str]) -> Elsewhere:
        syntax = EXPLICIT_VR_LITTLE_ENDIAN
        asked = AskedQuery("retrieve", "STUDY", syntax, self._door.called_ae, is_relational=True)
        keys: dict[int, Any] = {tag_of(keyword): uid for keyword, uid in wanted.items()}
        identifier = encode_items(item({QUERY_LEVEL: _LEVELS[len(wanted)], **keys}), syntax)
        missing, left_out = list[Located](), list[str]()
        try:
            with closing(self._door.asker.ask(asked, identifier)) as batches:
                for batch in batches:
                    answers = (Located.decode(each) for each in batch.answers if each != ALL_HERE)
                    missing += [each for each in answers if each.archive]
                    left_out += batch.left_out
        except NoAnswer:
            left_out = list(self._door.config.query.through)
        return Elsewhere(tuple(missing), tuple(dict.fromkeys(left_out)), tuple(wanted.values()))

    def bring(self, elsewhere: Elsewhere, take: TakeArrived) -> list[str]:
        """Have all fetched; `take` gets some at a time. Returns the UIDs of those that did not come."""
        progress = _Arrivals(take)
        ThroughFetch(self._door).run(list(elsewhere.missing), progress, progress)
        if not progress.failed:
            self._note_complete(elsewhere)
        return progress.failed

    def _is_complete(self, asked_for: tuple[str, ...]) -> bool:
        """Is it complete here? Of a series also where its study is, and so on."""
        with self._lock:
            since = max(self._complete.get(asked_for[:end], -math.inf) for end in range(1, len(asked_for) + 1))
        return time.monotonic() - since < ASK_AGAIN_SECONDS

    def _note_complete(self, found: Elsewhere) -> None:
        """All that was found is here now."""
        if found.left_out or not found.asked_for:
            return
        with self._lock:
            self._complete[found.asked_for] = time.monotonic()
            self._complete.move_to_end(found.asked_for)
            while len(self._complete) > _KEPT:
                self._complete.popitem(last=False)


class _Arrivals(Carrier):
    """See edge.scp.fetch_through.FetchProgress: what has come is handed on at once. A caller who goes ends it."""

    is_over = False

    def __init__(self, take: TakeArrived) -> None:
        self._take, self.failed = take, list[str]()

    def prepare(self, wanted: list[Located]) -> None: ...

    def carry(self, instance: Located) -> int | None:
        self._take([instance])
        return 0

    def carry_all(self, wanted: list[Located], carrier: Carrier) -> None:
        self._take(wanted)

    def fail(self, instances: deque[Located] | list[Located]) -> None:
        self.failed += [each.sop_instance_uid for each in instances]

    def tell(self) -> None: ...
