"""The answers of an archive behind us to the same question: asked beside the catalog, by a thread, within a budget.

A budget is a few seconds to the first answer and some more in all. An archive whose circuit is open, by the forwarder's
word or by what was met here a moment ago, is not called at all: a line that is down costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from edge.config.sections import Config, Destination
from edge.dicom import items
from edge.dicom.items import Attributes, ElementValue
from edge.dicom.scu import Patience, Secure
from edge.errors import EdgeError, PeerError
from edge.query import matching
from edge.query.archive_finder import Finder, open_finder
from edge.query.entities import Entity
from edge.query.levels import OF_ANSWER, UNIQUE_KEYWORDS, Level, LevelQuery, tag_of
from edge.query.located import Located
from edge.query.matching import QUERY_LEVEL

log = logging.getLogger(__name__)

#: Seconds to connect and be answered the first time, and in all.
FIRST_ANSWER_SECONDS, ALL_SECONDS = 3.0, 30.0
#: After a failure it is not called for this time.
AWAY_SECONDS = 15.0
#: Answers that are taken of one archive: more is said to be missing.
MOST_ANSWERS = 10_000
#: Questions to one archive at a time; others count it as busy.
MOST_AT_ONCE = 8
CIRCUIT_OPEN, BUSY, NO_ANSWER, CUT = "down", "busy", "no answer in time", "more answers than are taken"
_ISSUER = "IssuerOfPatientID"


class ArchiveQuestion:
    """See edge.query.answering.ArchiveAnswers. One question to one archive."""

    def __init__(
        self,
        destination: Destination,
        calling_ae: str,
        question: LevelQuery,
        top: str,
        secure: Secure | None,
        ended: Callable[[ArchiveQuestion], None],
        *,
        wants_instances: bool,
    ) -> None:
        self.name, self.ae_title = destination.name, destination.ae_title
        self.failure = ""
        self.is_away = False  # it could not be reached, or fell silent
        self._destination, self._calling_ae, self._secure = destination, calling_ae, secure
        self._question, self._top, self._ended = question, top, ended
        self._wants_instances = wants_instances
        self._found: list[Attributes] = []
        self._begun = time.monotonic()
        self._first_at: float | None = None
        self._is_done = threading.Event()
        self._finder: Finder | None = None
        self._thread = threading.Thread(target=self._run, name=f"ask {destination.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """True at the latest when its budget is used up."""
        if self._is_done.is_set():
            return True
        now = time.monotonic()
        late = now - self._begun > ALL_SECONDS or (self._first_at is None and now - self._begun > FIRST_ANSWER_SECONDS)
        if late:
            self.failure, self.is_away = NO_ANSWER, self._first_at is None
            self.close()
            self._is_done.set()
        return late

    def close(self) -> None:
        if not self._is_done.is_set() and (finder := self._finder) is not None:
            finder.kill()

    def entities(self) -> list[Entity]:
        """What matches by our own rules, as far as it says what was asked for."""
        found = []
        for each in list(self._found):
            keys = Attributes({tag: key for tag, key in self._question.keys.items() if each.get(tag)})
            if matching.compile_keys(keys)(each):
                found.append(Entity(each, False, (self.ae_title,)))
        return found

    def instances(self) -> list[Located]:
        tags = [tag_of(each) for each in ("SOPInstanceUID", "SOPClassUID")]
        whence = [tag_of(each) for each in ("StudyInstanceUID", "SeriesInstanceUID")]
        return [
            Located(
                each.text(tags[0]),
                each.text(tags[1]),
                "",
                archive=self.name,
                study_uid=each.text(whence[0]),
                series_uid=each.text(whence[1]),
            )
            for each in list(self._found)
            if each.text(tags[0])
        ]

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._ask()
        except PeerError as error:
            if not self.failure:
                self.failure, self.is_away = NO_ANSWER, self._first_at is None
                log.warning("%s answers no query: %s", self.name, error)
        except EdgeError as error:
            self.failure = self.failure or "it refuses the query"
            log.warning("%s refuses a query: %s", self.name, error)
        finally:
            self._is_done.set()
            self._ended(self)

    def _ask(self) -> None:
        patience = Patience(FIRST_ANSWER_SECONDS, FIRST_ANSWER_SECONDS, ALL_SECONDS)
        given = self._destination, self._calling_ae, self._secure
        finder = open_finder(*given, top=self._top, patience=patience, seconds=ALL_SECONDS)
        self._finder = finder
        try:
            if self._wants_instances:
                self._found = list(self._list_instances(finder))
            else:
                self._find_all(finder)
        finally:
            finder.close()

    def _find_all(self, finder: Finder) -> None:
        for each in self._find(finder, _identifier_of(self._question)):
            self._found.append(each)
            if len(self._found) >= MOST_ANSWERS:
                self.failure = CUT
                return

    def _list_instances(self, finder: Finder) -> Iterator[Attributes]:
        """Level by level, as archives want it that know no relational queries (PS3.4 section C.4.1.2.1)."""
        keys = self._question.keys
        above = [Attributes(keys)]
        top = Level[self._top]
        for level in Level:
            if level < top:
                continue
            found: list[Attributes] = []
            for each in above:
                asked = _identifier_at(level, each, keys)
                found += [_uniques(answer, each) for answer in self._find(finder, asked)]
                if len(found) > MOST_ANSWERS * 5:
                    self.failure = CUT
                    break
            above = found
        yield from above

    def _find(self, finder: Finder, identifier: Attributes) -> Iterator[Attributes]:
        for answer in finder.find(identifier):
            self._first_at = self._first_at or time.monotonic()
            yield answer
        self._first_at = self._first_at or time.monotonic()


def _identifier_of(question: LevelQuery) -> Attributes:
    """The question as we were asked it, with what merging needs."""
    asked = Attributes(question.keys)
    asked[QUERY_LEVEL] = ElementValue("CS", (question.level.name,))
    for keyword in (UNIQUE_KEYWORDS[question.level], *([_ISSUER] if question.level is Level.PATIENT else [])):
        asked.setdefault(tag_of(keyword), items.item({tag_of(keyword): ""})[tag_of(keyword)])
    return Attributes({tag: key for tag, key in asked.items() if tag not in OF_ANSWER or tag == QUERY_LEVEL})


def _identifier_at(level: Level, above: Attributes, keys: Attributes) -> Attributes:
    """One level of a retrieval: the unique keys of the levels above, and of this one as it is wanted."""
    asked = Attributes({QUERY_LEVEL: ElementValue("CS", (level.name,))})
    for at, keyword in UNIQUE_KEYWORDS.items():
        tag = tag_of(keyword)
        if at <= level:
            known = above.get(tag) or keys.get(tag)
            if known is not None or at == level:
                asked[tag] = known or items.item({tag: ""})[tag]
    if level is Level.IMAGE:
        asked[tag_of("SOPClassUID")] = items.item({tag_of("SOPClassUID"): ""})[tag_of("SOPClassUID")]
    return asked


def _uniques(answer: Attributes, above: Attributes) -> Attributes:
    """What tells an entity, and those above it."""
    found = Attributes()
    for keyword in (*UNIQUE_KEYWORDS.values(), "SOPClassUID"):
        tag = tag_of(keyword)
        known = answer.get(tag) if answer.get(tag) and answer[tag].values else above.get(tag)
        if known is not None:
            found[tag] = known
    return found


class Archives:
    """The archives that [query] through names, and what is known of them. Thread-safe."""

    def __init__(
        self,
        config: Callable[[], Config],
        secure_for: Callable[[str], Secure | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._secure_for, self._clock = config, secure_for, clock
        self._lock = threading.Lock()
        self._away_since: dict[str, float] = {}
        self._asking: dict[str, int] = {}

    def ask(
        self, question: LevelQuery, top: str, down: Mapping[str, float], wants_instances: bool
    ) -> Sequence[ArchiveQuestion | _NotAsked]:
        """Begin to ask each that can be reached."""
        config = self._config()
        found: list[ArchiveQuestion | _NotAsked] = []
        for name in config.query.through:
            destination = config.destinations[name]
            why = CIRCUIT_OPEN if name in down else self._take(name)
            if why:
                found.append(_NotAsked(name, destination.ae_title, why))
                continue
            secure = self._secure_for(destination.tls_name or destination.host) if destination.tls else None
            given = destination, config.listen.ae_title, question, top, secure, self._note_end
            asked = ArchiveQuestion(*given, wants_instances=wants_instances)
            try:
                asked.start()
            except RuntimeError:  # no thread is to be had
                self._note_end(asked)
                found.append(_NotAsked(name, destination.ae_title, BUSY))
            else:
                found.append(asked)
        return found

    def _take(self, name: str) -> str:
        """Why it is not asked now; empty where it is."""
        with self._lock:
            since = self._away_since.get(name)
            if since is not None and self._clock() - since < AWAY_SECONDS:
                return CIRCUIT_OPEN
            if self._asking.get(name, 0) >= MOST_AT_ONCE:
                return BUSY
            self._asking[name] = self._asking.get(name, 0) + 1
            return ""

    def _note_end(self, asked: ArchiveQuestion) -> None:
        with self._lock:
            self._asking[asked.name] -= 1
            if asked.is_away:
                self._away_since[asked.name] = self._clock()
            elif not asked.failure:
                self._away_since.pop(asked.name, None)


class _NotAsked:
    """An archive that is not called now: its circuit is open, or too many ask it."""

    is_done = True

    def __init__(self, name: str, ae_title: str, failure: str) -> None:
        self.name, self.ae_title, self.failure = name, ae_title, failure

    def entities(self) -> list[Entity]:
        return []

    def instances(self) -> list[Located]:
        return []

    def close(self) -> None:
        pass
