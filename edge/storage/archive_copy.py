"""A destination's copy: listed by C-FIND or QIDO-RS from studies to instances, fetched by C-GET or WADO-RS.

Objects are handed over as they come, whatever their size. Raises PeerError when the destination or the network fails,
ServiceRefused when the destination does not offer the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge.config.sections import Destination
from edge.dicom import items
from edge.dicom.items import Attributes
from edge.dicom.scu import Secure
from edge.query.archive_finder import open_background_finder
from edge.query.fetching import TakeObject, open_fetcher
from edge.query.levels import UNIQUE_KEYWORDS, Level, tag_of
from edge.query.located import Located
from edge.query.matching import QUERY_LEVEL

#: For all the objects of one request: they may come over a slow line.
RESTORE_SECONDS = 1800.0
_STUDY, _SERIES, _INSTANCE = (tag_of(UNIQUE_KEYWORDS[each]) for each in (Level.STUDY, Level.SERIES, Level.IMAGE))
_STUDY_DATE, _CLASS = tag_of("StudyDate"), tag_of("SOPClassUID")


@dataclass(frozen=True, slots=True)
class ListedInstance:
    """One instance that the destination has; without a SOP class where it does not say it."""

    sop_instance_uid: str
    sop_class_uid: str


class ArchiveCopy:
    """See the module's docstring."""

    def __init__(self, destination: Destination, calling_ae: str, secure: Secure | None = None) -> None:
        self._to, self._calling, self._secure = destination, calling_ae, secure

    def list_studies(self, dates: str) -> list[str]:
        """Study Instance UIDs; `dates`: a range of Study Date (PS3.4 section C.2.2.2.5), empty: all."""
        return _list_uids(self._find(Level.STUDY, {_STUDY: "", _STUDY_DATE: dates}), _STUDY)

    def list_undated(self) -> list[str]:
        """List studies without a Study Date, which no range finds: all are asked for."""
        found = self._find(Level.STUDY, {_STUDY: "", _STUDY_DATE: ""})
        return _list_uids((each for each in found if not each.text(_STUDY_DATE)), _STUDY)

    def list_instances(self, study_uid: str) -> dict[str, list[ListedInstance]]:
        """Series Instance UID -> its instances."""
        series = _list_uids(self._find(Level.SERIES, {_STUDY: study_uid, _SERIES: ""}), _SERIES)
        return {each: self._list_series(study_uid, each) for each in series}

    def _list_series(self, study_uid: str, series_uid: str) -> list[ListedInstance]:
        keys = {_STUDY: study_uid, _SERIES: series_uid, _INSTANCE: "", _CLASS: ""}
        found = {each.text(_INSTANCE): each.text(_CLASS) for each in self._find(Level.IMAGE, keys)}
        return [ListedInstance(uid, sop_class) for uid, sop_class in found.items() if uid]

    def _find(self, level: Level, keys: dict[int, str]) -> Iterator[Attributes]:
        with open_background_finder(self._to, self._calling, self._secure) as archive:
            yield from archive.find(items.item({QUERY_LEVEL: level.name, **keys}))

    def fetch(self, study_uid: str, series_uid: str, sop_class_uid: str, uids: Sequence[str], take: TakeObject) -> None:
        """Have instances of one SOP class given back, as the destination keeps them."""
        wanted = [Located(uid, sop_class_uid, "", study_uid=study_uid, series_uid=series_uid) for uid in uids]
        to, secure = self._to, self._secure
        fetcher = open_fetcher(to, self._calling, [sop_class_uid], secure, may_move=False, seconds=RESTORE_SECONDS)
        try:
            fetcher.fetch(wanted, take)
        except BaseException:
            fetcher.abort()
            raise
        fetcher.close()


def _list_uids(found: Iterable[Attributes], tag: int) -> list[str]:
    return list(dict.fromkeys(each.text(tag) for each in found if each.text(tag)))


def group_by_class(found: Iterable[ListedInstance]) -> dict[str, list[str]]:
    """SOP Instance UIDs by SOP class."""
    groups: dict[str, list[str]] = {}
    for each in found:
        groups.setdefault(each.sop_class_uid, []).append(each.sop_instance_uid)
    return groups
