"""The catalog's answers to a query, one entity after another, in bounded memory.

An index finds the studies that may match (`edge.store.queried.Lookup`); their rows are read some at a time, each time
in a short transaction, and `edge.query.matching` decides. Beside the numbers of the studies, eight bytes each, nothing
grows with the number of answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from edge.dicom.items import Attributes, ElementValue
from edge.query import entities, matching
from edge.query.entities import Entity
from edge.query.levels import OUT_OF_RESOURCES, Level, LevelQuery, QueryRefused, tag_of
from edge.query.matching import MatchRules
from edge.store import queried
from edge.store.database import CatalogRow, Transaction
from edge.store.patient_search import list_same_numbers
from edge.store.queried import STORED_HERE, Lookup, SeriesRows, StudyRows
from edge.text import fold_name

#: Studies that are read at once: few for the first answer, more behind it.
FIRST_CHUNK, MOST_CHUNK = 8, 128
#: Studies without a match in a row, some half a minute, after which a query that nothing narrows is refused.
MOST_FRUITLESS = 100_000
OpenReading = Callable[[], AbstractContextManager[Transaction]]

#: Keywords of counts, by what they count of which entity.
_COUNTS = {
    Level.PATIENT: (
        "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances",
    ),
    Level.STUDY: ("", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
    Level.SERIES: ("", "", "NumberOfSeriesRelatedInstances"),
}
_CLASSES = "SOPClassesInStudy"
#: Keys that are known only once the instances are read.
_COUNTED = frozenset(tag_of(each) for at in _COUNTS.values() for each in (*at, _CLASSES) if each)


def lookup_of(question: LevelQuery, rules: MatchRules = matching.PLAIN_RULES) -> Lookup:
    """What of the keys an index can find, or narrows a scan."""

    def exact(keyword: str) -> tuple[str, ...] | None:
        key = question.keys.get(tag_of(keyword))
        return matching.exact_values(key.vr, key.values) if key is not None else None

    names, dates = question.values("PatientName"), question.values("StudyDate")
    prefix, part = _name_hints(names)
    return Lookup(
        exact("SOPInstanceUID"),
        exact("SeriesInstanceUID"),
        exact("StudyInstanceUID"),
        exact("PatientID"),
        exact("AccessionNumber"),
        prefix,
        part,
        matching.date_bounds(dates, days_around=int(rules.zone is not None)) if dates else None,
        tuple(_text_hints(question)),
        exact("PatientSex"),
        matching.date_bounds(births) if (births := question.values("PatientBirthDate")) else None,
        matching.hour_bounds(question.values("StudyTime")) if rules.zone is None else None,
        _name_part(question.values("ReferringPhysicianName")),
    )


def _text_hints(question: LevelQuery) -> Iterator[tuple[str, str]]:
    """What the value of a single key must have somewhere, as it is written."""
    for keyword in queried.TEXT_COLUMNS:
        values = question.values(keyword)
        part = max(matching.split_wildcards(values[0]), key=len) if len(values) == 1 else ""
        if part and matching.EMPTY not in values:
            yield keyword, part


def _name_part(names: Sequence[str]) -> str:
    """What a folded name that matches must have somewhere."""
    if len(names) != 1 or names[0] == matching.EMPTY:
        return ""
    groups = fold_name(names[0]).split("=")
    return max((part for group in groups for part in matching.split_wildcards(group)), key=len).strip("^ ")


def _name_hints(names: Sequence[str]) -> tuple[str, str]:
    """Where a folded name that matches must begin, or what it must have somewhere; of ASCII names: the first group."""
    if len(names) != 1 or names[0] == matching.EMPTY:
        return "", ""
    name = fold_name(names[0])
    if "=" in name or not name.isascii():
        name = max(name.split("="), key=len)
        return "", max(matching.split_wildcards(name), key=len).strip("^ ")
    prefix = matching.literal_prefix(name)
    return prefix, max(matching.split_wildcards(name), key=len).strip("^ ")


@dataclass(frozen=True, slots=True)
class CatalogSource:
    """A catalog that is asked: how it is read, and which instances count."""

    reading: OpenReading
    states: tuple[str, ...] = STORED_HERE
    archives: tuple[str, ...] = ()  # AE titles of those that have what was evicted

    def find(self, question: LevelQuery, rules: MatchRules) -> Iterator[Entity | None]:
        """Every entity that matches, None where a while passed without one."""
        lookup, question = lookup_of(question, rules), self._with_other_numbers(question)
        early = Attributes({tag: key for tag, key in question.keys.items() if tag not in _COUNTED})
        late = Attributes({tag: key for tag, key in question.keys.items() if tag in _COUNTED})
        reader = _CatalogReader(
            self, question, matching.compile_keys(early, rules), matching.compile_keys(late, rules), rules
        )
        seen, fruitless = _Seen(), 0
        for studies in self._chunks(lookup):
            fruitless += len(studies)
            for entity in reader.answer(studies, seen):
                fruitless = 0
                yield entity
            if fruitless > MOST_FRUITLESS and lookup.is_empty:
                raise QueryRefused(OUT_OF_RESOURCES, "no index helps these keys: add a date, a name or a Patient ID")
            yield None

    def locate(self, question: LevelQuery) -> Iterator[tuple[CatalogRow, bool] | None]:
        """The rows of the instances that a retrieval wants, and whether they have former demographics.

        None where a while passed without one.
        """
        lookup, question = lookup_of(question), self._with_other_numbers(question)
        matches = matching.compile_keys(question.keys)
        wanted = frozenset(question.values("SOPInstanceUID"))
        of_series = Attributes({tag: key for tag, key in question.keys.items() if tag != tag_of("SOPInstanceUID")})
        is_wanted, seen = matching.compile_keys(of_series) if wanted else matches, _Seen()
        for numbers in self._chunks(lookup):
            with self.reading() as conn:
                studies = queried.read_studies(conn, [each for each in numbers if seen.add(each)], self.states)
            for study in studies:
                above = entities.compose_study(study)
                for series in study.series.values():
                    if is_wanted(entities.compose_series(above, series)):
                        with self.reading() as conn:
                            rows = queried.read_instances(conn, series.row_ids, self.states)
                        yield from (
                            (row, row["row_id"] in series.outdated)
                            for row in rows
                            if not wanted or row["sop_instance_uid"] in wanted
                        )
            yield None

    def _with_other_numbers(self, question: LevelQuery) -> LevelQuery:
        """A patient is found by each number that was merged, and is answered with today's."""
        tag = tag_of("PatientID")
        key = question.keys.get(tag)
        numbers = matching.exact_values(key.vr, key.values) if key is not None else None
        if key is None or not numbers:
            return question
        with self.reading() as conn:
            more = list_same_numbers(conn, numbers)
        keys = Attributes({**question.keys, tag: key._replace(values=tuple(more))})
        return replace(question, keys=keys)

    def _chunks(self, lookup: Lookup) -> Iterator[Sequence[int]]:
        """Some studies at a time; an empty one where a while passed without any."""
        with self.reading() as conn:
            found = queried.find_studies_for(conn, lookup)
        size = FIRST_CHUNK
        for numbers in [found] if found is not None else self._scan(lookup):
            if not numbers:
                yield numbers
            at = 0
            while at < len(numbers):
                yield numbers[at : at + size]
                at, size = at + size, min(size * 2, MOST_CHUNK)

    def _scan(self, lookup: Lookup) -> Iterator[array[int]]:
        before = 1 << 62
        while before:
            with self.reading() as conn:
                found, before = queried.list_studies_before(conn, lookup, before)
            yield found


class _Seen:
    """Numbers that have been met, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Note a number; False where it is known."""
        at, bit = number >> 3, 1 << (number & 7)
        if at >= len(self._bits):
            self._bits.extend(bytes(at + 4096 - len(self._bits)))
        is_new = not self._bits[at] & bit
        self._bits[at] |= bit
        return is_new


@dataclass(frozen=True, slots=True)
class _CatalogReader:
    """One query as it meets some studies after others."""

    source: CatalogSource
    question: LevelQuery
    early: Callable[[Attributes], bool]
    late: Callable[[Attributes], bool]
    rules: MatchRules

    def answer(self, numbers: Sequence[int], seen: _Seen) -> Iterator[Entity]:
        level, states = self.question.level, self.source.states
        if level is Level.PATIENT:
            yield from self._patients(numbers, seen)
            return
        with self.source.reading() as conn:
            studies = queried.read_studies(conn, [each for each in numbers if seen.add(each)], states)
            if level is Level.STUDY:
                found = [each for study in studies if (each := self._study(conn, study)) is not None]
            elif level is Level.SERIES:
                found = [each for study in studies for each in self._series(conn, study)]
        if level is Level.IMAGE:
            for study in studies:
                yield from self._instances(study)
            return
        yield from found

    def _study(self, conn: Transaction, study: StudyRows) -> Entity | None:
        entity = Entity(entities.compose_study(study))
        if not self.early(entity.attributes):
            return None
        return self._complete(conn, entity, [study], list(study.series.values()), Level.STUDY)

    def _series(self, conn: Transaction, study: StudyRows) -> Iterator[Entity]:
        above = entities.compose_study(study)
        for series in study.series.values():
            entity = Entity(entities.compose_series(above, series))
            if self.early(entity.attributes):
                done = self._complete(conn, entity, [study], [series], Level.SERIES)
                if done is not None:
                    yield done

    def _instances(self, study: StudyRows) -> Iterator[Entity]:
        above = entities.compose_study(study)
        for series in study.series.values():
            within = entities.compose_series(above, series)
            with self.source.reading() as conn:
                rows = queried.read_instances(conn, series.row_ids, self.source.states)
            for row in rows:
                found = entities.compose_instance(within, row)
                if self.early(found):
                    is_here = row["state"] == "stored"
                    yield self._shift(Entity(found, is_here, () if is_here else self.source.archives))

    def _patients(self, numbers: Sequence[int], seen: _Seen) -> Iterator[Entity]:
        with self.source.reading() as conn:
            patients = [each for each in queried.list_patients_of(conn, numbers) if seen.add(each)]
        for patient in patients:
            with self.source.reading() as conn:
                studies = queried.read_studies(conn, queried.list_studies_of_patient(conn, patient), self.source.states)
                entity = Entity(Attributes())
                for study in studies:
                    for tag, value in entities.compose_study(study).items():
                        entity.attributes.setdefault(tag, value)
                if not studies or not self.early(entity.attributes):
                    continue
                series = [each for study in studies for each in study.series.values()]
                found = self._complete(conn, entity, studies, series, Level.PATIENT)
            if found is not None:
                yield found

    def _complete(
        self, conn: Transaction, entity: Entity, studies: Iterable[StudyRows], series: list[SeriesRows], level: Level
    ) -> Entity | None:
        """Add the counts that are asked for; None where these do not match."""
        of_studies, of_series, of_instances = _COUNTS[level]
        asks, rows = self.question.asks, [row for each in series for row in each.row_ids]
        if of_studies and asks(of_studies):
            entity.related[of_studies] = frozenset(each.study_uid for each in studies)
        if of_series and asks(of_series):
            entity.related[of_series] = frozenset(each.series_uid for each in series)
        if asks(of_instances) or asks(_CLASSES):
            found = queried.list_instances_of(conn, rows, self.source.states)
            entity.related[of_instances] = frozenset(uid for uid, _ in found)
            entity.attributes[tag_of(_CLASSES)] = ElementValue("UI", tuple(sorted({each for _, each in found})))
        entities.add_counts(entity)
        entity.rows = rows
        if len(self.source.states) > 1:
            entity.is_here = queried.is_all_here(conn, rows)
            entity.retrieve_from = () if entity.is_here else self.source.archives
        return self._shift(entity) if self.late(entity.attributes) else None

    def _shift(self, entity: Entity) -> Entity:
        """Shift dates and times to the zone of the query."""
        entity.attributes = matching.shift_times(entity.attributes, self.rules)
        return entity
