"""`edge restore`: bring images back from a destination that has a copy, into an empty gateway or one that lacks some.

Promise: each object is entered as an arrival is (file, directory, rows), with the transfer syntax and the bytes that
the copy gives; one that is here already is skipped, so that an interrupted restore continues. Nothing is sent to those
that have it: for a destination that proves, the delivery counts as sent and its proof is asked for, and exactly what it
lacks is sent; one that proves by its C-STORE status alone is asked by C-FIND here. What cannot be asked is sent again.

Who sent an object to the first gateway, and when, is not known to the copy; where the ledger's copy of that gateway is
at hand (edge.storage.lost_gateway), it is as it was. Its custody begins again in any case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from edge.config.sections import Config, Destination
from edge.dicom.command import SUCCESS
from edge.dicom.commitment import open_query
from edge.errors import EdgeError, PeerError, Permanent, Unreadable
from edge.intake import Intake
from edge.model import ContextKey, Origin
from edge.network import tls
from edge.query.fetching import ReadInto
from edge.spool import Partial, Spool
from edge.storage.archive_copy import ArchiveCopy, group_by_class
from edge.store import restored
from edge.store.catalog import Added, Arrival
from edge.store.database import Store, Transaction

#: Instances that are asked for in one C-GET.
GET_BATCH = 200


ReportProgress = Callable[["Restoration"], object]


@dataclass(slots=True)
class Restoration:
    """What a restore has done so far."""

    source: str
    studies: int = 0
    studies_done: int = 0
    instances: int = 0  # that came
    with_origin: int = 0  # of these: as whose, and since when, the first gateway had them
    already_here: int = 0
    octets: int = 0
    sent_again: dict[str, int] = field(default_factory=dict)  # destination that could not be asked -> deliveries
    missing: int = 0  # listed, and not given
    faults: list[str] = field(default_factory=list)  # without UIDs: a study each
    seconds: float = 0.0


class Restorer:
    """See the module's promise. One thread; the data directory is the caller's alone."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        intake: Intake,
        config: Config,
        source: str,
        copy: ArchiveCopy,
        report: ReportProgress = lambda _: None,
        origins: Mapping[str, Origin] = MappingProxyType({}),
    ) -> None:
        """`origins`: SOP Instance UID -> who sent it to the first gateway, where that is known."""
        self._db, self._spool, self._intake, self._config = db, spool, intake, config
        self._source, self._report = config.destinations[source], report
        self._copy, self._origins, self.is_stopping = copy, origins, False
        self._calling = config.listen.ae_title
        self._unasked: set[str] = set()  # destinations that do not answer C-FIND
        self.done = Restoration(source)

    def restore_all(self, dates: str = "") -> Restoration:
        """Restore every study that the copy has; `dates`: a range of Study Date, empty: all.

        Raises PeerError or ServiceRefused where it cannot be asked what it has.
        """
        began = time.monotonic()
        studies = self._list_studies(dates)
        self.done.studies = len(studies)
        for each in studies:
            if self.is_stopping:
                break
            try:
                self._restore_study(each)
            except (PeerError, Permanent, Unreadable) as error:
                self.done.faults.append(str(error))
            self.done.studies_done += 1
            self.done.seconds = time.monotonic() - began
            self._report(self.done)
        self.done.seconds = time.monotonic() - began
        return self.done

    def _list_studies(self, dates: str) -> list[str]:
        """List the studies of a range of Study Date, and those without one: a range does not find them."""
        studies = self._copy.list_studies(dates)
        if not dates:
            return studies
        try:
            return list(dict.fromkeys([*studies, *self._copy.list_undated()]))
        except (PeerError, Permanent) as error:
            self.done.faults.append(f"studies without a date: {error}")
            return studies

    def _restore_study(self, study_uid: str) -> None:
        listed = self._copy.list_instances(study_uid)
        for series, found in listed.items():
            with self._db.reading() as conn:
                here = restored.instances_here(conn, [each.sop_instance_uid for each in found])
            self.done.already_here += len(here)
            groups = group_by_class(each for each in found if each.sop_instance_uid not in here)
            for sop_class, uids in groups.items():
                for at in range(0, len(uids), GET_BATCH):
                    self._get(study_uid, series, sop_class, uids[at : at + GET_BATCH])

    def _get(self, study_uid: str, series_uid: str, sop_class_uid: str, uids: Sequence[str]) -> None:
        proved = self._ask_others(study_uid, series_uid, set(uids))
        came = set[str]()

        def take(context_key: ContextKey, uid: str, read_into: ReadInto) -> int:
            unknown = Origin(self._source.ae_title, self._calling, self._source.host, time.time())
            origin = self._origins.get(uid, unknown)
            partial = self._spool.begin(context_key, uid, origin)
            try:
                read_into(partial.write)
            except BaseException:
                partial.discard()
                raise
            self._enter(partial, context_key, uid, origin, {name for name, has in proved.items() if uid in has})
            self.done.with_origin += origin is not unknown
            came.add(uid)
            return SUCCESS

        try:
            self._copy.fetch(study_uid, series_uid, sop_class_uid, uids, take)
        finally:
            self.done.missing += len(set(uids) - came)

    def _enter(self, partial: Partial, context_key: ContextKey, uid: str, origin: Origin, proved: Set[str]) -> None:
        try:
            stored = partial.finish()
        except BaseException:
            partial.discard()
            raise
        policy = self._intake.policy
        facts = self._intake.reread_header(stored.path, context_key, uid, origin, policy)
        self._intake.enter(stored, facts, lambda conn, added: self._settle(conn, added, proved))
        self.done.instances += 1
        self.done.octets += stored.size

    # -- what its destinations have already ----------------------------------------------------------------------------

    def _settle(self, conn: Transaction, added: Added, proved: Set[str]) -> None:
        """Settle deliveries in the transaction of the entry: nothing is sent to those that have it."""
        if added.arrival is Arrival.DUPLICATE:
            return
        known = self._config.destinations
        asked = {name for name, each in known.items() if each.confirm != "status"} - {self._source.name}
        left = restored.settle_restored(
            conn, added.instance_id, added.study_id, proved | {self._source.name}, asked, time.time()
        )
        for name in left:
            self.done.sent_again[name] = self.done.sent_again.get(name, 0) + 1

    def _ask_others(self, study_uid: str, series_uid: str, uids: Set[str]) -> dict[str, set[str]]:
        """What each destination has that proves by its C-STORE status alone, as far as it answers C-FIND."""
        found: dict[str, set[str]] = {}
        for each in self._config.destinations.values():
            if each.confirm == "status" and each is not self._source and each.name not in self._unasked:
                found[each.name] = self._ask(each, study_uid, series_uid, uids)
        return found

    def _ask(self, destination: Destination, study_uid: str, series_uid: str, uids: Set[str]) -> set[str]:
        try:
            with open_query(destination, self._calling, tls.secure(self._config, destination)) as query:
                return query.has(uids, study_uid, series_uid)
        except EdgeError:
            self._unasked.add(destination.name)
            return set()
