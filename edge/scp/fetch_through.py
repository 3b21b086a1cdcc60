"""Retrieval of what only an archive has: fetched into the journal as cached, and passed on as it comes.

Two retrievals of one study fetch it once: the second waits for what the first brings, and goes on where that ends.
What is fetched is a record of the journal like any object, and is found and sent by the same code as all else.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from contextlib import closing
from functools import partial
from typing import Protocol

from edge.config.sections import Config, Destination
from edge.dicom import items
from edge.dicom.scu import Secure
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.errors import EdgeError, Hindered, StorageUnhealthy
from edge.model import ContextKey, Origin
from edge.query.asking import AskedQuery, Asker
from edge.query.fetching import Fetcher, ReadInto, open_fetcher
from edge.query.levels import tag_of
from edge.query.located import ALL_HERE, Located
from edge.query.matching import QUERY_LEVEL
from edge.scp.gateway_link import GatewayLink, reading_studies
from edge.scp.recorder import Recorder
from edge.scp.response import answer_for

log = logging.getLogger(__name__)

#: Instances that are fetched before they are carried on.
FETCH_CHUNK = 16
#: While another retrieval fetches: between two checks, and without anything new until this one gives up.
OTHERS_PAUSE_SECONDS, STALL_SECONDS = 0.3, 60.0


class Carrier(Protocol):
    """How one object gets to the one who wants it."""

    def prepare(self, wanted: list[Located]) -> None:
        """Get ready for these: what is here, before the first is sent."""

    def carry(self, instance: Located) -> int | None:
        """The status of its C-STORE; None where it could not be sent. Raises PeerError: nothing more can be."""


class FetchingDoor(Protocol):
    """What of the gateway is used: an association of C-MOVE or C-GET has it, and the web door."""

    @property
    def config(self) -> Config: ...
    @property
    def called_ae(self) -> str: ...
    @property
    def asker(self) -> Asker: ...
    @property
    def recorder(self) -> Recorder: ...
    @property
    def link(self) -> GatewayLink: ...
    def check_room(self) -> None: ...
    def secure_for(self, host: str, /) -> Secure | None: ...


class FetchProgress(Protocol):
    """How far one retrieval is, and what is done with what has come."""

    @property
    def is_over(self) -> bool:
        """Is nothing more wanted, or can nothing more get there?"""

    def carry_all(self, wanted: list[Located], carrier: Carrier) -> None:
        """Carry what is here now."""

    def fail(self, instances: deque[Located] | list[Located]) -> None:
        """Note that these do not come."""

    def tell(self) -> None:
        """Say that nothing has come yet, and that it takes long."""


class ThroughFetch:
    """The fetch of one retrieval. `run` is its `fetch`."""

    def __init__(self, door: FetchingDoor) -> None:
        self._door = door

    def run(self, there: list[Located], carrier: Carrier, retrieval: FetchProgress) -> None:
        """Have all brought and carried; what does not come has failed."""
        by_study: dict[tuple[str, str], dict[str, Located]] = defaultdict(dict)
        for each in there:
            by_study[each.archive, each.study_uid][each.sop_instance_uid] = each
        for (archive, study), missing in by_study.items():
            destination = self._door.config.destinations.get(archive)
            if destination is not None and not retrieval.is_over:
                self._study(destination, study, missing, carrier, retrieval)
            retrieval.fail(list(missing.values()))

    def _study(
        self,
        destination: Destination,
        study: str,
        missing: dict[str, Located],
        carrier: Carrier,
        retrieval: FetchProgress,
    ) -> None:
        link, last = self._door.link, time.monotonic()
        while missing and not retrieval.is_over:
            if link.begin_fetch(study):
                try:
                    self._fetch_all(destination, missing, carrier, retrieval)
                finally:
                    link.end_fetch(study)
                return
            before = len(missing)
            self._carry_what_is_here(missing, carrier, retrieval)
            if len(missing) < before:
                last = time.monotonic()
            elif time.monotonic() - last > STALL_SECONDS:
                return
            retrieval.tell()
            time.sleep(OTHERS_PAUSE_SECONDS)

    def _fetch_all(
        self, destination: Destination, missing: dict[str, Located], carrier: Carrier, retrieval: FetchProgress
    ) -> None:
        self._carry_what_is_here(missing, carrier, retrieval)  # another retrieval may just have ended
        classes = [each.sop_class_uid for each in missing.values()]
        fetcher: Fetcher | None = None
        try:
            while missing and not retrieval.is_over:
                chunk, is_new = list(missing.values())[:FETCH_CHUNK], fetcher is None
                failure: EdgeError | None = None
                try:
                    fetcher = fetcher or self._open(destination, classes)
                    fetcher.fetch(chunk, partial(self._take, destination))
                except EdgeError as error:
                    failure = error
                    _abort(fetcher)
                    fetcher = None
                self._carry_what_is_here({each.sop_instance_uid: each for each in chunk}, carrier, retrieval, missing)
                if failure is None:
                    lost = [missing.pop(each.sop_instance_uid) for each in chunk if each.sop_instance_uid in missing]
                    retrieval.fail(lost)
                elif is_new:  # else the archive may have ended it while others were carried
                    log.warning("%s does not give back what a retrieval wants: %s", destination.name, failure)
                    return
            if fetcher is not None:
                fetcher.close()
        except BaseException:
            _abort(fetcher)  # who wanted it has gone
            raise

    def _open(self, destination: Destination, classes: list[str]) -> Fetcher:
        name = destination.tls_name or destination.host
        secure = self._door.secure_for(name) if destination.tls else None
        return open_fetcher(destination, self._door.config.listen.ae_title, classes, secure)

    def _take(self, destination: Destination, context_key: ContextKey, uid: str, read_into: ReadInto) -> int:
        """One object into the journal, as cached. Returns the status of its C-STORE."""
        recorder, ours = self._door.recorder, self._door.config.listen.ae_title
        origin = Origin(destination.ae_title, ours, destination.host, time.time(), destination.name)
        try:
            self._door.check_room()
            recording = recorder.begin(context_key, uid, origin)
        except (Hindered, StorageUnhealthy, MemoryError) as error:
            return answer_for(error).status
        return recorder.receive(recording, context_key, uid, origin, read_into).status

    def _carry_what_is_here(
        self,
        some: dict[str, Located],
        carrier: Carrier,
        retrieval: FetchProgress,
        missing: dict[str, Located] | None = None,
    ) -> None:
        """Carry those that are here by now, and take them out of what is missing."""
        out_of = some if missing is None else missing
        found = self._locate(list(some))
        for each in found:
            out_of.pop(each.sop_instance_uid, None)
        if found:
            carrier.prepare(found)
            with reading_studies(self._door.link, (each.study_id for each in found)):
                retrieval.carry_all(found, carrier)

    def _locate(self, uids: list[str]) -> list[Located]:
        syntax = EXPLICIT_VR_LITTLE_ENDIAN
        asked = AskedQuery("retrieve", "STUDY", syntax, self._door.called_ae, is_relational=True, is_local=True)
        found: list[Located] = []
        for begin in range(0, len(uids), 500):  # a value of Explicit VR has 65,534 bytes
            some = "\\".join(uids[begin : begin + 500])
            identifier = items.item({QUERY_LEVEL: "IMAGE", tag_of("SOPInstanceUID"): some})
            with closing(self._door.asker.ask(asked, items.encode_items(identifier, syntax))) as batches:
                answers = [answer for batch in batches for answer in batch.answers if answer != ALL_HERE]
            found += [each for each in map(Located.decode, answers) if each.path]
        return found


def _abort(fetcher: Fetcher | None) -> None:
    if fetcher is not None:
        fetcher.abort()
