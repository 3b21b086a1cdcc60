"""Patients, studies, series and instances as queries match and answer them: data sets made of rows. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.dicom.elements import SINGLE_TEXT, vr_of
from edge.dicom.items import Attributes, ElementValue, item
from edge.query.levels import KEYWORDS_OF, Level, LevelQuery, tag_of
from edge.query.matching import QUERY_LEVEL, TIMEZONE_OFFSET
from edge.store.queried import SeriesRows, StudyRows

RETRIEVE_AE, AVAILABILITY = 0x00080054, 0x00080056
ONLINE, NEARLINE = "ONLINE", "NEARLINE"


@dataclass(slots=True)
class Entity:
    """What is matched and answered: a data set, and whether all of it is here."""

    attributes: Attributes
    is_here: bool = True
    retrieve_from: tuple[str, ...] = ()  # AE titles of archives that have it
    related: dict[str, frozenset[str]] = field(default_factory=dict)  # keyword of a count -> what is counted
    rows: list[int] = field(default_factory=list)  # of its series in the catalog


#: Keywords of what is answered of a patient and study, and of a series.
_OF_STUDY = frozenset((*KEYWORDS_OF[Level.PATIENT], *KEYWORDS_OF[Level.STUDY]))
_OF_STUDY_BY_SERIES, _OF_SERIES = (
    frozenset((*of, "TimezoneOffsetFromUTC")) for of in (_OF_STUDY, KEYWORDS_OF[Level.SERIES])
)


def _element(tag: int, value: Any) -> ElementValue:
    """The element of a text, or of a sequence's first item, as the catalog has it."""
    if isinstance(value, dict):
        return ElementValue("SQ", (), [item({tag_of(key): text for key, text in value.items()})])
    vr, text = vr_of(tag), str(value)
    return ElementValue(vr, (text,) if vr in SINGLE_TEXT else tuple(text.split("\\")))


def _fill_attributes(attributes: Attributes, said: Mapping[str, Any], keywords: Container[str]) -> None:
    for keyword, value in said.items():
        if value not in (None, "") and keyword in keywords and (tag := tag_of(keyword)) not in attributes:
            attributes[tag] = _element(tag, value)


def compose_study(study: StudyRows) -> Attributes:
    """Patient and study, by all that its objects say; counts are not among it."""
    found = Attributes()
    _fill_attributes(found, study.said, _OF_STUDY)
    found[tag_of("StudyInstanceUID")] = ElementValue("UI", (study.study_uid,))
    for series in study.series.values():
        _fill_attributes(found, series.said, _OF_STUDY_BY_SERIES)
    modalities = dict.fromkeys(each for series in study.series.values() for each in series.modalities)
    if modalities:
        found[tag_of("ModalitiesInStudy")] = ElementValue("CS", tuple(modalities))
    return found


def compose_series(study: Attributes, series: SeriesRows) -> Attributes:
    found = Attributes(study)
    found.pop(TIMEZONE_OFFSET, None)
    _fill_attributes(found, series.said, _OF_SERIES)
    found[tag_of("SeriesInstanceUID")] = ElementValue("UI", (series.series_uid,))
    return found


_OF_ROW = {
    "SOPInstanceUID": "sop_instance_uid",
    "SOPClassUID": "sop_class_uid",
    "InstanceNumber": "instance_number",
    "AvailableTransferSyntaxUID": "transfer_syntax_uid",
    "Rows": "pixel_rows",
    "Columns": "pixel_columns",
    "NumberOfFrames": "frames",
    "BitsAllocated": "bits_allocated",
    "ContentDate": "content_date",
    "ContentTime": "content_time",
    "DocumentTitle": "title",
}


def compose_instance(series: Attributes, row: Any) -> Attributes:
    """`row`: of edge.store.queried.read_instances."""
    found = Attributes(series)
    _fill_attributes(found, {keyword: row[column] for keyword, column in _OF_ROW.items()}, _OF_ROW)
    return found


def compose_answer(question: LevelQuery, entity: Entity, called_ae: str, zone: str = "") -> Attributes:
    """The identifier of one answer: what was asked for, and nothing else, but where it is retrieved from."""
    answer = Attributes()
    for tag, key in question.keys.items():
        found = entity.attributes.get(tag)
        if found is None:
            answer[tag] = ElementValue(key.vr if key.vr != "UN" else vr_of(tag))
        elif found.vr == "SQ":
            answer[tag] = ElementValue("SQ", (), [_asked_of(key, each) for each in found.items])
        else:
            answer[tag] = found
    for tag in question.unknown:
        answer[tag] = ElementValue(vr_of(tag))
    answer[QUERY_LEVEL] = ElementValue("CS", (question.level.name,))
    there = tuple(filter(None, entity.retrieve_from))  # a DICOMweb server has no title: we retrieve from it
    titles = (*((called_ae,) if entity.is_here or not there else ()), *there)
    answer[RETRIEVE_AE] = ElementValue("AE", tuple(dict.fromkeys(titles)))
    answer[AVAILABILITY] = ElementValue("CS", (ONLINE if entity.is_here else NEARLINE,))
    if zone:
        answer[TIMEZONE_OFFSET] = ElementValue("SH", (zone,))
    return answer


def _asked_of(key: ElementValue, found: Attributes) -> Attributes:
    """The elements of an item that the key's item names; all of it where that names nothing."""
    wanted: Sequence[int] = [tag for each in key.items for tag in each]
    if not wanted:
        return found
    return Attributes({tag: found.get(tag) or ElementValue(vr_of(tag)) for tag in wanted})


def add_counts(entity: Entity) -> None:
    """The counts, of what was found to be related."""
    for keyword, these in entity.related.items():
        entity.attributes[tag_of(keyword)] = ElementValue("IS", (str(len(these)),))
