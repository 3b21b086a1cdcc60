"""Answers to queries: from the catalog, what the journal still holds, and the archives behind, merged as one.

`Answering.find` is a generator that yields None where time passes without an answer: who calls it decides when it goes
on. It never waits for an archive longer than that one's budget, nor for one whose circuit is open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from edge.config.sections import Config
from edge.dicom.command import SUCCESS
from edge.dicom.header import HeaderSearch
from edge.query import merging
from edge.query.asking import AnswerBatch, AskedQuery
from edge.query.catalog import CatalogSource
from edge.query.entities import Entity
from edge.query.levels import UNABLE_TO_PROCESS, Level, LevelQuery
from edge.query.matching import MatchRules
from edge.query.unapplied import JournalView, Overlay, build_overlay
from edge.store import journal_progress, queried
from edge.store.queried import HERE_AND_THERE, STORED_HERE
from edge.store.read_only import CatalogReader

#: Matches are continuing; and: one or more optional keys were not supported (PS3.4 table C.4-1).
MATCHES_CONTINUE, UNSUPPORTED_KEYS = 0xFF00, 0xFF01
#: A query waits this long for what was answered before it, then reads that from the journal.
QUERY_SETTLE_SECONDS = 0.3
#: Between two times that an archive is asked whether it has answered.
ARCHIVE_PAUSE_SECONDS = 0.01


class ArchiveAnswers(Protocol):
    """What one archive answers, while a thread asks it: edge.query.archive."""

    name: str
    ae_title: str

    @property
    def is_done(self) -> bool:
        """Has it answered all, failed, or used up its budget?"""

    @property
    def failure(self) -> str:
        """Why not all of its answers are here; empty: they are."""

    def entities(self) -> list[Entity]: ...

    def instances(self) -> list[Any]:
        """The instances of a retrieval: edge.query.located.Located."""

    def close(self) -> None: ...


#: (question, top level, destinations that are down, instances are wanted) -> what each archive is asked, by now.
AskArchives = Callable[[LevelQuery, str, Mapping[str, float], bool], Sequence[ArchiveAnswers]]


def ask_none(
    _question: LevelQuery, _top: str, _down: Mapping[str, float], _wants_instances: bool
) -> Sequence[ArchiveAnswers]:
    return ()


def wait_for(archives: Sequence[ArchiveAnswers]) -> Iterator[None]:
    """Let time pass until each has answered, has failed, or has used up its budget."""
    while not all(each.is_done for each in archives):
        time.sleep(ARCHIVE_PAUSE_SECONDS)
        yield None


@dataclass(slots=True)
class QueryOutcome:
    """What an answer lacks, once it is complete otherwise."""

    left_out: dict[str, str] = field(default_factory=dict)  # destination -> why


def final_batch(
    asked: AskedQuery, question: LevelQuery, outcome: QueryOutcome, pending: int = MATCHES_CONTINUE
) -> AnswerBatch:
    """The end of an answer. What archives have left out is a failure where the whole is asked for."""
    left_out, level = tuple(outcome.left_out), question.level.name
    if left_out and asked.is_complete:
        comment = f"not complete: no answer of {', '.join(left_out)}"[:64]
        return AnswerBatch((), UNABLE_TO_PROCESS, comment, pending, level, left_out)
    return AnswerBatch((), SUCCESS, "", pending, level, left_out)


class Answering:
    """See the module's docstring. Thread-safe."""

    def __init__(
        self,
        reader: CatalogReader,
        config: Callable[[], Config],
        search: Callable[[], HeaderSearch],
        journal: JournalView | None = None,
        ask_archives: AskArchives = ask_none,
    ) -> None:
        """`journal`: None where all that was answered is in the catalog."""
        self.reader, self.config, self._search, self.journal = reader, config, search, journal
        self._ask_archives = ask_archives

    def find(self, question: LevelQuery, rules: MatchRules, top: str, outcome: QueryOutcome) -> Iterator[Entity | None]:
        """Every entity that matches, None where a while passed without one. `outcome` is complete at the end."""
        archives, source = self.begin(question, top, outcome)
        try:
            overlay = None
            for found in self.settle():
                overlay = found
                yield None
            yield from wait_for(archives)
            others = self._collect(question, rules, overlay, archives, outcome)
            yield from self._merge(source.find(question, rules), question, others)
        finally:
            for each in archives:
                each.close()

    def begin(
        self,
        question: LevelQuery,
        top: str,
        outcome: QueryOutcome,
        *,
        wants_instances: bool = False,
        is_local: bool = False,
    ) -> tuple[Sequence[ArchiveAnswers], CatalogSource]:
        """Have the archives asked, as far as they can be reached; and the catalog as it is asked beside them."""
        through = () if is_local else self.config().query.through
        if not through:
            return (), CatalogSource(self.reader.reading)
        with self.reader.reading() as conn:
            down = queried.read_down_since(conn, through)
        outcome.left_out.update(dict.fromkeys(down, "down"))
        archives = self._ask_archives(question, top, down, wants_instances)
        # What was evicted counts only while the archive that has it can be reached.
        titles = tuple(each.ae_title for each in archives if not each.failure)
        return archives, CatalogSource(self.reader.reading, HERE_AND_THERE if titles else STORED_HERE, titles)

    def settle(self, seconds: float = QUERY_SETTLE_SECONDS) -> Iterator[Overlay | None]:
        """Wait for what was answered before; the last one is a catalog of what is not applied by then, or None."""
        if self.journal is None:
            return
        mark, end = self.journal.mark(), time.monotonic() + seconds
        while not self.journal.is_applied(mark):
            if time.monotonic() > end:
                yield self._read_unapplied(self.journal)
                return
            time.sleep(0.002)
            yield None

    def _read_unapplied(self, journal: JournalView) -> Overlay:
        with self.reader.reading() as conn:
            applied = journal_progress.read_applied(conn)
        heads = [*journal.list_heads(applied)]
        uids = journal.uids_of(heads)
        with self.reader.reading() as conn:
            known = queried.known_instances(conn, uids)
        return build_overlay(journal.folder, heads, known, self._search())

    def _collect(
        self,
        question: LevelQuery,
        rules: MatchRules,
        overlay: Overlay | None,
        archives: Sequence[ArchiveAnswers],
        outcome: QueryOutcome,
    ) -> _Others:
        others = _Others()
        if overlay is not None and overlay.count:
            found = CatalogSource(overlay.reading).find(question, rules)
            others.unapplied = merging.unite_all((each for each in found if each is not None), question.level)
        for archive in archives:
            if archive.failure:
                outcome.left_out[archive.name] = archive.failure
            for unique, each in self._list_there(archive, question):
                others.there.setdefault(unique, []).append((archive.name, each))
        return others

    def _list_there(self, archive: ArchiveAnswers, question: LevelQuery) -> Iterator[tuple[merging.Unique, Entity]]:
        """What an archive has, by what is unique; without the instances that a rejection note hides here."""
        found = [(merging.unique_of(each.attributes, question.level), each) for each in archive.entities()]
        hidden = set[str]()
        if question.level is Level.IMAGE and found:
            with self.reader.reading() as conn:
                hidden = queried.list_hidden(conn, (unique[0] for unique, _ in found))
        return ((unique, each) for unique, each in found if unique[0] not in hidden)

    def _merge(self, here: Iterator[Entity | None], question: LevelQuery, others: _Others) -> Iterator[Entity | None]:
        for entity in here:
            if entity is None or not (others.unapplied or others.there):
                yield entity
                continue
            unique = merging.unique_of(entity.attributes, question.level)
            if (more := others.unapplied.pop(unique, None)) is not None:
                entity = merging.unite(entity, more)
            yield self._complete(entity, others.there.pop(unique, ()))
        for unique, entity in others.unapplied.items():
            yield self._complete(entity, others.there.pop(unique, ()))
        for known in others.there.values():
            (_, found), *rest = known
            for _, each in rest:
                found = merging.complete(found, each)
            yield replace(found, is_here=False)

    def _complete(self, entity: Entity, there: Sequence[tuple[str, Entity]]) -> Entity:
        for name, each in there:
            undelivered = 0
            if entity.rows:
                with self.reader.reading() as conn:
                    undelivered = queried.count_undelivered(conn, entity.rows, STORED_HERE, name)
            entity = merging.complete(entity, each, undelivered)
        return entity


@dataclass(slots=True)
class _Others:
    """What sources beside the catalog know, by what is unique."""

    unapplied: dict[merging.Unique, Entity] = field(default_factory=dict)
    there: dict[merging.Unique, list[tuple[str, Entity]]] = field(default_factory=dict)
