"""Answers of several sources become one: the cache wins for what it holds, an archive completes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from edge.dicom.items import Attributes, ElementValue
from edge.query import entities
from edge.query.entities import Entity
from edge.query.levels import UNIQUE_KEYWORDS, Level, tag_of

#: Several values that add up.
_UNITED = ("ModalitiesInStudy", "SOPClassesInStudy")
_COUNTS = (
    "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances",
    "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances",
)  # fmt: skip
_ISSUER = "IssuerOfPatientID"

#: What tells one entity of a level from another.
Unique = tuple[str, ...]


def unique_of(attributes: Attributes, level: Level) -> Unique:
    """The unique key: of a patient the ID and issuer, else the UID."""
    unique = attributes.text(tag_of(UNIQUE_KEYWORDS[level]))
    return (unique, attributes.text(tag_of(_ISSUER))) if level is Level.PATIENT else (unique,)


def unite(first: Entity, second: Entity) -> Entity:
    """Two catalogs' knowledge of one entity: what is counted is united."""
    related = {key: first.related.get(key, frozenset()) | these for key, these in second.related.items()}
    made = Entity(_fill(first.attributes, second.attributes), first.is_here and second.is_here, first.retrieve_from)
    made.related, made.rows = {**first.related, **related}, first.rows
    entities.add_counts(made)
    return made


def complete(here: Entity, there: Entity, undelivered: int = 0) -> Entity:
    """What is here, with what an archive knows beyond it.

    Of an instance count the archive's, with those that it was not sent yet, or ours where that is larger.
    """
    attributes = _fill(here.attributes, there.attributes)
    is_all_here = here.is_here
    for keyword in _COUNTS:
        tag = tag_of(keyword)
        ours, theirs = _number(here.attributes, tag), _number(there.attributes, tag)
        if theirs is None:
            continue
        more = undelivered if keyword.endswith("Instances") else 0
        most = max(ours or 0, theirs + more)
        attributes[tag] = ElementValue("IS", (str(most),))
        is_all_here &= ours is not None and most <= ours
    return Entity(attributes, is_all_here, tuple(dict.fromkeys((*here.retrieve_from, *there.retrieve_from))))


def _fill(first: Attributes, second: Attributes) -> Attributes:
    """The first one's values, and the second's where it has none."""
    made = Attributes(first)
    for tag, found in second.items():
        known = made.get(tag)
        if known is None or not (known.values or known.items):
            made[tag] = found
    for keyword in _UNITED:
        tag = tag_of(keyword)
        if tag in made and tag in second:
            made[tag] = made[tag]._replace(values=tuple(dict.fromkeys((*made[tag].values, *second[tag].values))))
    return made


def _number(attributes: Attributes, tag: int) -> int | None:
    text = attributes.text(tag).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def unite_all(found: Iterable[Entity], level: Level) -> dict[Unique, Entity]:
    """Unite entities with the same unique key."""
    made: dict[Unique, Entity] = {}
    for each in found:
        unique = unique_of(each.attributes, level)
        made[unique] = unite(made[unique], each) if unique in made else each
    return made
