"""Earlier studies are fetched ahead of appointments ([prefetch.NAME]).

Promise: the nearest appointment goes first; only instances that are not here are fetched, and what has come is never
fetched again: after an outage the fetch resumes. What is fetched goes through the journal as *cached*: it is owed to no
destination, and evicted first. Nothing is fetched while urgent work waits to go out, above storage.warn, or from an
archive whose circuit is open; between objects the line rests, so that fetching has `share` of it at most.

A worker reads the worklist and asks archives; it works at one study at a time.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from edge.config.sections import Config, Destination
from edge.dicom import items
from edge.dicom.commitment import QUERY_RETRIEVE_LEVEL
from edge.dicom.scu import Secure
from edge.errors import EdgeError, Hindered, Permanent, ProtocolError, StorageUnhealthy
from edge.model import ContextKey, Disk, Origin
from edge.outbound.prefetch.choice import (
    BIRTH_DATE,
    INSTANCES,
    STUDY_DATE,
    STUDY_TIME,
    PrefetchRule,
    choose_priors,
    list_prefetch_requests,
    pause_after,
)
from edge.query import worklist as pure
from edge.query.archive_finder import Finder, open_background_finder
from edge.query.fetching import Fetcher, ReadInto, open_fetcher
from edge.query.located import Located
from edge.query.worklist import decode_item
from edge.store import prefetch, queried, worklist
from edge.store.database import Store, Transaction
from edge.store.prefetch import PrefetchRequest, WantedStudy
from edge.worker import ThreadSpec, Worker
from edge.worker.backoff import backoff

log = logging.getLogger(__name__)

PREFETCH_THREAD = ThreadSpec("prefetch", __name__, "what is prefetched; the journal", "after the object that comes")

#: Without anything to do. After a study: at once the next.
_IDLE_SECONDS = 2.0
#: The worklist is read when it has changed, and this often.
_PLAN_SECONDS = 600.0
#: Between two tries of a study.
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 10.0, 600.0
#: Instances of one C-GET: no more are under way when urgent work comes.
_BATCH = 10
#: SOP classes of one association: each takes several presentation contexts.
_MOST_CLASSES = 15
#: The longest rest behind one object.
LONGEST_REST_SECONDS = 10.0
_MOST_INSTANCES = 100_000


_STUDY_UID, _SERIES_UID, _SOP_UID, _SOP_CLASS = 0x0020000D, 0x0020000E, 0x00080018, 0x00080016

#: Records an object durably: its kind, UID, origin, and what hands over its data set. Returns the C-STORE status.
StoreObject = Callable[[ContextKey, str, Origin, ReadInto], int]


class _Interrupted(EdgeError):
    """Something more important has come: the rest is fetched later."""


class Prefetcher:
    """See the module's docstring."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        disk: Callable[[], Disk],
        secure_for: Callable[[Destination], Secure | None],
        store: StoreObject,
        settle: Callable[[], bool],
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`settle`: have what was fetched in the catalog."""
        self._db, self._config, self._disk, self._secure_for = db, config, disk, secure_for
        self._store, self._settle, self._clock, self._chance = store, settle, clock, chance
        self._planned: tuple[object, ...] = ()  # by what the worklist was read the last time
        self._rules: tuple[object, tuple[PrefetchRule, ...]] = (None, ())
        self.worker = Worker(PREFETCH_THREAD, self.step)

    def step(self) -> float:
        """Read the worklist where it is time, then choose or fetch one study. Seconds until the next step."""
        config = self._config()
        if not config.prefetches or self._db.failure is not None:
            return _IDLE_SECONDS
        now = self._clock()
        with self._db.reading() as conn:
            planned = worklist.read_stamp(conn, None), config.prefetches, now // _PLAN_SECONDS
        if planned != self._planned:
            self._plan(config)
            self._planned = planned
        if not self._may_fetch():
            return _IDLE_SECONDS
        with self._db.reading() as conn:
            down = set(queried.read_down_since(conn, list(config.destinations)))
            away = down | {each.from_ for each in config.prefetches.values() if each.from_ not in config.destinations}
            request = prefetch.next_request(conn, now, away)
            study = prefetch.next_study(conn, now, away)
        if request is not None:
            self._choose(config, request)
        elif study is not None:
            self._fetch(config, study)
        return 0.0 if request is not None or study is not None else _IDLE_SECONDS

    def _may_fetch(self) -> bool:
        """Is there room, and nothing urgent to be sent?"""
        with self._db.reading() as conn:
            is_urgent = prefetch.has_urgent_work(conn)
        return not is_urgent and self._disk().fullest < self._config().storage.warn

    # -- what is wanted -----------------------------------------------------------------------------------------------

    def _plan(self, config: Config) -> None:
        """The worklist says for which appointments something is wanted."""
        if self._rules[0] is not config.prefetches:
            compiled = tuple(PrefetchRule.compile(each) for each in config.prefetches.values())
            self._rules = config.prefetches, compiled
        with self._db.reading() as conn:
            rows = worklist.read_items(conn, None)
        served = [decode_item(row.body, row.charset, row.performed) for row in rows]
        requests, now = list(list_prefetch_requests(served, self._rules[1])), self._clock()

        def note(conn: Transaction) -> None:
            prefetch.note_requests(conn, requests, now)
            prefetch.forget_old(conn, now)

        self._db.write(note)

    def _choose(self, config: Config, request: PrefetchRequest) -> None:
        rule, source = config.prefetches.get(request.rule), config.destinations[request.source]
        now = self._clock()
        if rule is None:
            self._db.write(lambda conn: prefetch.note_chosen(conn, request, (), now))
            return
        keys = dict.fromkeys((_STUDY_UID, STUDY_DATE, STUDY_TIME, pure.PATIENT_NAME, BIRTH_DATE, INSTANCES), "")
        keys |= {QUERY_RETRIEVE_LEVEL: "STUDY", pure.PATIENT_ID: request.patient_id}
        try:
            with open_background_finder(source, config.listen.ae_title, self._secure_for(source)) as archive:
                answers = list(archive.find(items.item(keys)))
        except EdgeError as error:
            again, text = self._again(request.tries), str(error)
            log.warning("earlier studies are not asked of %s: %s", source.name, text)
            self._db.write(lambda conn: prefetch.postpone_choice(conn, request.id, again, text))
            return
        priors = choose_priors(request, answers, rule, config.calendar.day_at(now).strftime("%Y%m%d"))
        self._db.write(lambda conn: prefetch.note_chosen(conn, request, priors, now))

    def _again(self, tries: int) -> float:
        wait = backoff(tries + 1, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS, self._chance())
        return self._clock() + wait

    # -- fetching -----------------------------------------------------------------------------------------------------

    def _fetch(self, config: Config, study: WantedStudy) -> None:
        """Fetch what is missing of one study; what did not come is tried again later."""
        source, fetching = config.destinations[study.source], _Fetching()
        share = max((each.share for each in config.prefetches.values() if each.from_ == study.source), default=1.0)
        try:
            self._fetch_missing(config, source, study, fetching, share)
        except _Interrupted:
            self._postpone(study, fetching, self._clock(), "")
        except (Hindered, StorageUnhealthy) as error:
            self._postpone(study, fetching, self._again(study.tries), str(error))
        except EdgeError as error:
            log.warning("an earlier study is not fetched from %s: %s", source.name, error)
            again = self._again(study.tries + 3 if isinstance(error, Permanent) else study.tries)
            self._postpone(study, fetching, again, str(error))
        else:
            log.info("an earlier study is here: %d objects from %s", fetching.count, source.name)
            self._db.write(lambda conn: prefetch.note_fetched(conn, study.id, fetching.count))

    def _postpone(self, study: WantedStudy, fetching: _Fetching, at: float, error: str) -> None:
        self._db.write(lambda conn: prefetch.postpone_study(conn, study.id, fetching.count, at, error))

    def _fetch_missing(
        self, config: Config, source: Destination, study: WantedStudy, fetching: _Fetching, share: float
    ) -> None:
        title, secure = config.listen.ae_title, self._secure_for(source)
        self._settle()
        with open_background_finder(source, title, secure) as archive:
            missing = self._missing(archive, study.study_uid)
        by_class: dict[str, list[Located]] = defaultdict(list)
        for each in missing:
            by_class[each.sop_class_uid].append(each)
        classes = sorted(by_class)
        for at in range(0, len(classes), _MOST_CLASSES):
            group = classes[at : at + _MOST_CLASSES]
            wanted = [each for one in group for each in by_class[one]]
            self._fetch_group(source, open_fetcher(source, title, group, secure), study, wanted, fetching, share)
        if fetching.count < len(missing):
            raise EdgeError(f"{len(missing) - fetching.count} of {len(missing)} objects did not come")

    def _fetch_group(
        self,
        source: Destination,
        fetcher: Fetcher,
        study: WantedStudy,
        wanted: Sequence[Located],
        fetching: _Fetching,
        share: float,
    ) -> None:
        """Some at a time, on one association; what is more important comes between."""

        def rest(seconds: float) -> None:
            pause = min(LONGEST_REST_SECONDS, pause_after(seconds, share))
            if pause > 0:
                self.worker.pause(pause)

        def take(context_key: ContextKey, uid: str, read_into: ReadInto) -> int:
            began = time.monotonic()
            status = self.take(context_key, uid, read_into, source)
            fetching.count += status == 0
            rest(time.monotonic() - began)
            return status

        try:
            for at in range(0, len(wanted), _BATCH):
                self._check_wanted(study)
                began = time.monotonic()
                came = fetcher.fetch(wanted[at : at + _BATCH], take)
                if fetcher.is_recorded_by_door:
                    fetching.count += came
                    rest(time.monotonic() - began)
        except BaseException:
            fetcher.abort()
            raise
        fetcher.close()

    def _missing(self, archive: Finder, study_uid: str) -> list[Located]:
        """What the archive has of a study and is not here, nor hidden by a rejection note."""
        found: list[Located] = []
        of_study = {QUERY_RETRIEVE_LEVEL: "SERIES", _STUDY_UID: study_uid, _SERIES_UID: ""}
        for series in list(archive.find(items.item(of_study))):
            uid = series.text(_SERIES_UID)
            keys = of_study | {QUERY_RETRIEVE_LEVEL: "IMAGE", _SERIES_UID: uid, _SOP_UID: "", _SOP_CLASS: ""}
            found += [
                Located(each.text(_SOP_UID), each.text(_SOP_CLASS), "", study_uid=study_uid, series_uid=uid)
                for each in archive.find(items.item(keys))
            ]
            if len(found) > _MOST_INSTANCES:
                raise ProtocolError(f"more than {_MOST_INSTANCES} instances of one study")
        with self._db.reading() as conn:
            uids = [each.sop_instance_uid for each in found]
            here = queried.known_instances(conn, uids) | queried.list_hidden(conn, uids)
        return [each for each in found if each.sop_instance_uid not in here | {""}]

    def _check_wanted(self, study: WantedStudy) -> None:
        """Raises _Interrupted where something else comes first."""
        with self._db.reading() as conn:
            is_wanted = prefetch.is_study_wanted(conn, study.id)
        if not is_wanted or not self._may_fetch() or self.worker.is_stopping:
            raise _Interrupted("something else comes first")

    def take(self, context_key: ContextKey, uid: str, read_into: ReadInto, source: Destination) -> int:
        """Record one object that the archive gives. Returns the status of its C-STORE."""
        title = self._config().listen.ae_title
        origin = Origin(source.ae_title, title, source.host, self._clock(), source.name)
        return self._store(context_key, uid, origin, read_into)


class _Fetching:
    """What came of one study."""

    def __init__(self) -> None:
        self.count = 0
