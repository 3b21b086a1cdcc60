"""Matching of an entity's values with the keys of a query (PS3.4 section C.2.2.2). Pure; for every door alike.

    single value       VRs as text, case and all; PN without regard to case and accents (ours to state, C.2.2.2.1.1);
                       dates and times as moments, numbers as numbers
    list               several values of a key: any of them (C.2.2.2.2, C.2.2.2.8)
    universal          an empty key, or `*` alone: everything, also what has no value (C.2.2.2.3)
    wildcard           `*` and `?`, where the VR is text and no UID (C.2.2.2.4)
    range              dates, times, date times: `A-B`, `A-`, `-B` (C.2.2.2.5)
    sequence           one item: an item of the entity matches all its keys (C.2.2.2.6)
    empty value        `""`: what has no value (C.2.2.2.7)

A value that matches none of these rules, such as a date that is none, matches only the same text. An entity with
several values matches where one of them does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation

from edge.dicom.elements import SINGLE_TEXT
from edge.dicom.items import Attributes, ElementValue
from edge.model import Values
from edge.query import moments
from edge.query.moments import Span
from edge.text import fold_name

SPECIFIC_CHARACTER_SET, QUERY_LEVEL, TIMEZONE_OFFSET = 0x00080005, 0x00080052, 0x00080201
#: These say how the query is meant: they are no keys.
NO_KEYS = frozenset({SPECIFIC_CHARACTER_SET, QUERY_LEVEL, TIMEZONE_OFFSET})
#: The key that asks for what has no value.
EMPTY = '""'
MOMENT_VRS = frozenset({"DA", "TM", "DT"})
_NUMBER_VRS = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"})
_NO_WILDCARDS = MOMENT_VRS | _NUMBER_VRS | {"UI", "AS", "AT"}
#: Date and time that combined matching takes as one moment.
DATE_TIMES = {
    0x00080012: 0x00080013,  # Instance Creation
    0x00080020: 0x00080030,  # Study
    0x00080021: 0x00080031,  # Series
    0x00080022: 0x00080032,  # Acquisition
    0x00080023: 0x00080033,  # Content
    0x00100030: 0x00100032,  # Patient's Birth
    0x00400002: 0x00400003,  # Scheduled Procedure Step Start
    0x00400244: 0x00400245,  # Performed Procedure Step Start
    0x00400250: 0x00400251,  # Performed Procedure Step End
}

#: Does an element of an entity match? Its values, as text.
MatchesValues = Callable[[Values], bool]


@dataclass(frozen=True, slots=True)
class MatchRules:
    """How a query is meant, beside its keys."""

    combines_date_times: bool = False  # negotiated: a date and a time key are one range (PS3.4 C.2.2.2.5.3)
    zone: int | None = None  # minutes east of UTC that its times mean; None: as they are stored
    stored_zone: int = 0  # of values that do not say it


PLAIN_RULES = MatchRules()


def is_universal(element: ElementValue) -> bool:
    """Does this key match everything?"""
    if element.vr == "SQ":
        return all(all(is_universal(each) for each in item.values()) for item in element.items)
    return all(each in ("", "*") for each in element.values)


def matches(keys: Attributes, entity: Attributes, rules: MatchRules = PLAIN_RULES) -> bool:
    """Does an entity match all the keys? For many entities, compile the keys once: `compile_keys`."""
    return compile_keys(keys, rules)(entity)


def compile_keys(keys: Attributes, rules: MatchRules = PLAIN_RULES) -> Callable[[Attributes], bool]:
    """A function that says whether an entity matches all the keys."""
    wanted = {tag: key for tag, key in keys.items() if tag not in NO_KEYS and not is_universal(key)}
    combined = _combine_date_times(wanted, rules)
    for tag in combined:
        wanted.pop(tag, None)
        wanted.pop(DATE_TIMES[tag], None)
    values = {tag: compile_key(key.vr, key.values, rules) for tag, key in wanted.items() if key.vr != "SQ"}
    sequences = {
        tag: [compile_keys(each, rules) for each in key.items] for tag, key in wanted.items() if key.vr == "SQ"
    }
    if not (values or sequences or combined):
        return lambda _: True

    def match(entity: Attributes) -> bool:
        at = shift_times(entity, rules)
        return (
            all(test(_values(at, tag)) for tag, test in values.items())
            and all(_any_item(at, tag, tests) for tag, tests in sequences.items())
            and all(_is_within(at, tag, span) for tag, span in combined.items())
        )

    return match


def _values(entity: Attributes, tag: int) -> Values:
    found = entity.get(tag)
    return found.values if found is not None else ()


def _any_item(entity: Attributes, tag: int, tests: list[Callable[[Attributes], bool]]) -> bool:
    return any(test(item) for item in entity.items_of(tag) for test in tests)


def _combine_date_times(wanted: Mapping[int, ElementValue], rules: MatchRules) -> dict[int, Span]:
    """The date keys that mean one moment together with their time keys."""
    if not rules.combines_date_times:
        return {}
    found = {}
    for date_tag, time_tag in DATE_TIMES.items():
        if date_tag in wanted and time_tag in wanted:
            span = moments.combined_span("\\".join(wanted[date_tag].values), "\\".join(wanted[time_tag].values))
            if span is not None:
                found[date_tag] = span
    return found


def _is_within(entity: Attributes, date_tag: int, span: Span) -> bool:
    day = moments.date_span(entity.text(date_tag))
    time = moments.time_span(entity.text(DATE_TIMES[date_tag]) or "00")
    return day is not None and time is not None and span.holds(day.first + time.first)


def shift_times(entity: Attributes, rules: MatchRules) -> Attributes:
    """The entity with its dates and times as the query's zone has them (PS3.4 section C.2.2.2.5)."""
    if rules.zone is None:
        return entity
    own = moments.parse_zone(entity.text(TIMEZONE_OFFSET))
    stored = rules.stored_zone if own is None else own
    shifted = Attributes(entity)
    for date_tag, time_tag in DATE_TIMES.items():
        if date_tag in entity and time_tag in entity and date_tag != 0x00100030:  # no birthday moves
            day, time = moments.shift_zone(entity.text(date_tag), entity.text(time_tag), stored, rules.zone)
            shifted[date_tag] = entity[date_tag]._replace(values=(day,) if day else ())
            shifted[time_tag] = entity[time_tag]._replace(values=(time,) if time else ())
    return shifted


# -- one key ----------------------------------------------------------------------------------------------------------


def compile_key(vr: str, key: Values, rules: MatchRules = PLAIN_RULES) -> MatchesValues:
    """A function that says whether the values of an attribute match a key of this VR."""
    if all(each in ("", "*") for each in key):
        return lambda _: True
    if vr in SINGLE_TEXT:
        key = ("\\".join(key),)
    tests = [_compile_value(vr, each, rules) for each in key if each]
    has_empty = EMPTY in key
    uids = frozenset(key) if vr == "UI" else None

    def match(values: Values) -> bool:
        if not any(values):
            return has_empty
        if uids is not None:
            return any(each in uids for each in values)
        return any(test(each) for test in tests for each in values)

    return match


def _compile_value(vr: str, key: str, rules: MatchRules) -> Callable[[str], bool]:
    if vr in MOMENT_VRS:
        return _compile_moment(vr, key, rules)
    if vr in _NUMBER_VRS:
        wanted = _number(key)
        return lambda value: value == key or (wanted is not None and _number(value) == wanted)
    if vr == "PN":
        return _compile_name(key)
    if vr not in _NO_WILDCARDS and has_wildcards(key):
        return compile_wildcards(key)
    return key.__eq__


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip())
    except InvalidOperation:
        return None


def _compile_moment(vr: str, key: str, rules: MatchRules) -> Callable[[str], bool]:
    zone = rules.stored_zone if rules.zone is None else rules.zone
    span = moments.key_span(vr, key, zone)
    if span is None:
        return key.__eq__

    def match(value: str) -> bool:
        moment = moments.value_moment(vr, value, rules.stored_zone)
        return value == key if moment is None else span.holds(moment)

    return match


def has_wildcards(key: str) -> bool:
    return "*" in key or "?" in key


def compile_wildcards(key: str) -> Callable[[str], bool]:
    """`*` is any text, `?` one character (PS3.4 section C.2.2.2.4). No part is tried again: no key takes long."""
    parts = [_one_by_one(part) for part in key.split("*")]
    first, between, last = parts[0], [each for each in parts[1:-1] if each.pattern], parts[-1]
    if len(parts) == 1:
        return lambda value: first.fullmatch(value) is not None

    behind = len(key) - key.rindex("*") - 1

    def match(value: str) -> bool:
        found = first.match(value)
        for part in between:
            if found is None:
                return False
            found = part.search(value, found.end())
        return found is not None and last.fullmatch(value, max(found.end(), len(value) - behind)) is not None

    return match


def _one_by_one(part: str) -> re.Pattern[str]:
    return re.compile("".join("." if each == "?" else re.escape(each) for each in part), re.DOTALL)


def _compile_name(key: str) -> Callable[[str], bool]:
    """A name without `=` is that of any component group: as it is spelt, in ideographs, or as it is pronounced."""
    groups = [_compile_group(each) if each else None for each in fold_name(key).split("=")]

    def match(value: str) -> bool:
        found = fold_name(value).split("=")
        if len(groups) == 1:
            return groups[0] is None or any(groups[0](each) for each in found)
        found += [""] * (len(groups) - len(found))
        return all(test is None or test(each) for test, each in zip(groups, found, strict=False))

    return match


def _compile_group(key: str) -> Callable[[str], bool]:
    if not has_wildcards(key):
        return key.__eq__
    match, carets = compile_wildcards(key), key.count("^")
    # `doe^*` is also Doe alone: empty components at the end were folded away.
    return lambda group: match(group + "^" * (carets - group.count("^")))


# -- what an index may use --------------------------------------------------------------------------------------------


def exact_values(vr: str, key: Values) -> Values | None:
    """The values of a key of which one must be there as written; None where a value may be written differently."""
    if not key or vr in MOMENT_VRS | _NUMBER_VRS or vr == "PN" or "" in key or EMPTY in key:
        return None
    if vr not in _NO_WILDCARDS and any(map(has_wildcards, key)):
        return None
    return key


def hour_bounds(key: Values) -> tuple[str, str] | None:
    """The hours between which a time that matches must be, as TM writes them; None: any."""
    spans = [moments.key_span("TM", each) for each in key]
    known = [each for each in spans if each is not None]
    if not known or len(known) < len(spans):
        return None
    first, last = min(each.first for each in known), max(each.last for each in known)
    hour = 3_600_000_000
    return f"{max(0, first) // hour:02d}", f"{min(last, 24 * hour - 1) // hour:02d}"


def date_bounds(key: Values, days_around: int = 0) -> tuple[str, str] | None:
    """First and last date, as the catalog has them (YYYYMMDD), between which what matches must be; None: anywhere.

    `days_around`: by which a stored date may differ, since it is of another zone.
    """
    spans = [moments.key_span("DA", each) for each in key]
    known = [each for each in spans if each is not None]
    if not known or len(known) < len(spans):
        return None
    around = days_around * moments.DAY_US
    first, last = min(each.first for each in known) - around, max(each.last for each in known) + around
    return _date_text(first, "00010101"), _date_text(last, "99991231")


def _date_text(moment: int, beyond: str) -> str:
    if not 0 <= moment < date.max.toordinal() * moments.DAY_US:
        return beyond
    return date.fromordinal(moment // moments.DAY_US + 1).strftime("%Y%m%d").zfill(8)


def literal_prefix(key: str) -> str:
    """The text before the first wildcard of a folded name; of a name without one, all of it."""
    found = re.search(r"[*?]", key)
    return (key[: found.start()] if found else key).rstrip("^ ")


def split_wildcards(key: str) -> list[str]:
    """The texts between the wildcards."""
    return re.split(r"[*?]", key)
