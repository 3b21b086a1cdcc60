"""One condition of a `when` table: what it asks of the values of an attribute. Pure.

A condition compares the whole of a value (globs and regular expressions alike, in exact case), and holds when any one
of the attribute's values meets it. Ranges are inclusive, to the precision in which their bounds are written:
`to = "2026-01"` takes in all of January. ReceivedAt is local time, as 2026-01-31T18:04:05.

Limits: a regular expression that backtracks without end stalls the scanner that waits; the rules are the site's own.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from edge.config.parsers import compile_regex
from edge.config.values import Unfit, did_you_mean, fault_at, format_value, is_number, read_parts, unfit
from edge.model import InstanceHeader, Values
from edge.model.dictionary import STANDARD_UIDS, TAGS_BY_KEYWORD, dictionary_vr, tag_for_keyword

T = TypeVar("T")
Look = Callable[[InstanceHeader], Values]

_CONDITION = "text or a number, a list of conditions, or a table with not, regex, from/to or present"
_FIRST_IN_DATA_SET = 0x00080000
_PIXEL_DATA = 0x7FE00008  # Float; (7FE0,0009) Double Float and (7FE0,0010) follow


def _received_at(facts: InstanceHeader) -> Values:
    return (time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(facts.origin.received_at)),)


#: What the rules may ask besides the header's attributes. An IPv4 peer of an IPv6 socket counts as IPv4.
FACTS: dict[str, Look] = {
    "CallingAETitle": lambda facts: (facts.origin.calling_ae,),
    "CalledAETitle": lambda facts: (facts.origin.called_ae,),
    "RemoteAddress": lambda facts: (facts.origin.address.removeprefix("::ffff:"),),
    "ReceivedAt": _received_at,
    "SOPClassUID": lambda facts: (facts.sop_class_uid,),
    "SOPInstanceUID": lambda facts: (facts.sop_instance_uid,),
    "TransferSyntaxUID": lambda facts: (facts.transfer_syntax_uid,),
}


@dataclass(frozen=True, slots=True)
class Matcher:
    """What a condition asks of the values of an attribute."""

    text: str  # for people
    holds: Callable[[Values], bool]
    names: bool = True  # it says what the value is, rather than what it is not, or that there is one


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a `when` table."""

    keyword: str
    matcher: Matcher
    look: Look

    def holds(self, facts: InstanceHeader) -> bool:
        return self.matcher.holds(self.look(facts))


def compile_condition(keyword: str, value: object) -> Condition:
    """Compile one line of a `when` table. Raises Unfit with each fault at its place inside the condition."""
    return Condition(keyword, _matcher(_subject(keyword, value), value), FACTS.get(keyword) or _attribute(keyword))


def _attribute(keyword: str) -> Look:
    return lambda facts: facts.attributes.get(keyword, ())


@dataclass(frozen=True, slots=True)
class ComparedAttribute:
    """What a condition is about: how its values are written decides how they are compared."""

    keyword: str
    vr: str  # empty for the association's facts


def _subject(keyword: str, value: object) -> ComparedAttribute:
    """Look up an attribute of the data dictionary (PS3.6) above the pixel data, or a fact."""
    if keyword in FACTS:
        return ComparedAttribute(keyword, "UI" if keyword.endswith("UID") else "")
    tag = tag_for_keyword(keyword)
    if tag is None:
        near = did_you_mean(keyword, (*FACTS, *TAGS_BY_KEYWORD))
        raise unfit(f"not a DICOM keyword{near or '; expected one of the data dictionary (PS3.6), such as Modality'}")
    if not _FIRST_IN_DATA_SET <= tag < _PIXEL_DATA:
        raise unfit("not among the attributes above the pixel data; expected one of those, such as Modality")
    vr = dictionary_vr(tag).split(" ")
    if (vr[0] in ("SQ", "UN") or vr[0].startswith("O") or vr[-1] == "OW") and not _asks_presence(value):
        raise unfit("has no value to compare; expected { present = true } or { present = false }")
    return ComparedAttribute(keyword, vr[0])


def _asks_presence(value: object) -> bool:
    return isinstance(value, dict) and ("present" in value or _asks_presence(value.get("not")))


# -- one condition -----------------------------------------------------------------------------------------------------


def _matcher(subject: ComparedAttribute, value: Any) -> Matcher:
    if isinstance(value, str):
        return _pattern(subject, value)
    if is_number(value):
        return _equal(subject, value)
    if isinstance(value, list) and value:
        return _any_of(read_parts(enumerate(value), lambda _, item: _matcher(subject, item)))
    if isinstance(value, dict):
        return _table(subject, value)
    raise unfit(f"expected {_CONDITION}, found {format_value(value)}")


def _any_of(matchers: Sequence[Matcher]) -> Matcher:
    text, names = " or ".join(each.text for each in matchers), all(each.names for each in matchers)
    return Matcher(text, lambda values: any(each.holds(values) for each in matchers), names)


def _table(subject: ComparedAttribute, table: Mapping[str, Any]) -> Matcher:
    forms = (*_FORMS, "from", "to")
    if unknown := [name for name in table if name not in forms]:
        expected = "; expected not, regex, from, to or present"
        raise Unfit(*(((name,), f"unknown condition{did_you_mean(name, forms) or expected}") for name in unknown))
    if table and table.keys() <= {"from", "to"}:
        return _range(subject, table.get("from"), table.get("to"))
    if len(table) != 1:
        found = " and ".join(table) or "none"
        raise unfit(f"expected exactly one of not, regex, from/to or present, found {found}")
    ((form, operand),) = table.items()
    with fault_at(form):
        return _FORMS[form](subject, operand)


def _negation(subject: ComparedAttribute, value: Any) -> Matcher:
    matcher = _matcher(subject, value)
    return Matcher(f"not {matcher.text}", lambda values: not matcher.holds(values), names=False)


def _presence(_subject: ComparedAttribute, present: Any) -> Matcher:
    if not isinstance(present, bool):
        raise unfit(f"expected true or false, found {format_value(present)}")
    return Matcher("present" if present else "absent", lambda values: bool(values) == present, names=False)


def _regex(_subject: ComparedAttribute, regex: Any) -> Matcher:
    if not isinstance(regex, str):
        raise unfit(f"expected a regular expression in quotes, found {format_value(regex)}")
    try:
        matches = compile_regex(regex).fullmatch
    except ValueError as error:
        raise unfit(f"expected a regular expression, found {format_value(regex)}{error}") from None
    return Matcher(f"/{regex}/", lambda values: any(matches(value) for value in values))


def _pattern(subject: ComparedAttribute, text: str) -> Matcher:
    if not text:  # absent, or of zero length
        return Matcher('""', lambda values: not any(values), names=False)
    if subject.keyword == "RemoteAddress":
        return _network(text)
    if subject.vr == "UI" and any(char.isalpha() for char in text):
        return _uid_name(text)
    if subject.vr == "DA" and (day := _moment(text)):  # "2026-01-31", or "2026-01" for all of January
        return _glob(text, day if len(day) == 8 else f"{day}*")
    return _glob(text, text)


def _glob(text: str, pattern: str) -> Matcher:
    if not any(char in pattern for char in "*?["):
        return Matcher(f'"{text}"', lambda values: pattern in values)
    matches = re.compile(translate(pattern)).match
    return Matcher(f'"{text}"', lambda values: any(matches(value) for value in values), names=pattern.strip("*") != "")


def _network(text: str) -> Matcher:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        if "/" in text:
            raise unfit(f'"{text}" is not a network; expected one such as "10.4.0.0/16"') from None
        return _glob(text, text)

    @lru_cache(maxsize=1024)
    def is_inside(address: str) -> bool:
        try:
            return ip_address(address) in network
        except ValueError:
            return False

    return Matcher(text, lambda values: any(map(is_inside, values)))


def _uid_name(text: str) -> Matcher:
    """UIDs by the names or keywords that PS3.6 gives them, such as "CT Image Storage" or "*SRStorage"."""
    known = {uid: (name, keyword) for uid, (name, _, _, _, keyword) in STANDARD_UIDS.items()}
    fitting = frozenset(uid for uid, names in known.items() if any(fnmatchcase(name, text) for name in names))
    if not fitting:
        near = get_close_matches(text, [name for names in known.values() for name in names if name], n=1)
        raise unfit(f'"{text}" is no name of a UID' + (f'; did you mean "{near[0]}"?' if near else ""))
    return Matcher(f'"{text}"', lambda values: not fitting.isdisjoint(values))


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NUMBER_VRS = frozenset({"DS", "IS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _equal(subject: ComparedAttribute, number: float) -> Matcher:
    if subject.vr not in _NUMBER_VRS:  # "007" is not 7 where it names something
        return _glob(str(number), str(number))
    return Matcher(str(number), lambda values: any(_number(value) == number for value in values))


_FORMS: dict[str, Callable[[ComparedAttribute, Any], Matcher]]
_FORMS = {"not": _negation, "regex": _regex, "present": _presence}


# -- ranges ------------------------------------------------------------------------------------------------------------

_CLOCK = re.compile(r"([01]?\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d))?)?")
_MOMENT = re.compile(r"(\d{4})(?:-?(\d\d)(?:-?(\d\d)(?:[T ]?(\d\d)(?::?(\d\d)(?::?(\d\d))?)?)?)?)?")
_AGE = re.compile(r"(\d{1,3})([DWMY])")  # PS3.5 section 6.2, AS
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_SEPARATORS = str.maketrans("", "", "-.:T")


def _range(subject: ComparedAttribute, low: Any, high: Any) -> Matcher:
    given = [(word, bound) for word, bound in (("from", low), ("to", high)) if bound is not None]
    for name, bound in given:
        if not is_number(bound) and (not isinstance(bound, str) or not bound):
            raise Unfit(((name,), f"expected text or a number, found {format_value(bound)}"))
    text = " ".join(f"{word} {bound}" for word, bound in given)
    bounds = [bound for _, bound in given]
    if subject.keyword == "RemoteAddress":
        raise unfit('addresses have no range; write a network such as "10.4.0.0/16"')
    if all(map(is_number, bounds)):
        if subject.vr in ("", "AS"):
            raise unfit(f'expected bounds in quotes, such as "18:00" or "018Y", found {text}')
        return Matcher(text, _in_numbers(_number, low, high))
    if any(map(is_number, bounds)):
        raise unfit(f"expected both bounds as numbers or both as text, found {text}")
    if subject.vr in _NUMBER_VRS:
        raise unfit(f"the values are numbers: write the bounds without quotes, found {text}")
    return Matcher(text, _text_range(subject, low, high))


def _text_range(subject: ComparedAttribute, low: str | None, high: str | None) -> Callable[[Values], bool]:
    """The test of a range with bounds in quotes: ages, times of day, moments, or plain text."""
    if subject.vr == "AS":
        return _in_numbers(_days, _bound(_days, low), _bound(_days, high))
    bounds = [bound for bound in (low, high) if bound is not None]
    if subject.vr == "TM" or (subject.keyword == "ReceivedAt" and all(map(_CLOCK.fullmatch, bounds))):
        return _in_texts(_time_of_day, _bound(_clock, low), _bound(_clock, high), wraps=True)
    if subject.vr in ("DA", "DT") or subject.keyword == "ReceivedAt":
        return _in_texts(_digits, _bound(_moment, low), _bound(_moment, high))
    return _in_texts(str, low, high)


def _in_numbers(key: Callable[[str], float | None], low: float | None, high: float | None) -> Callable[[Values], bool]:
    """Is the number that a value stands for in the range?"""
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if least > most:
        raise unfit("`from` is after `to`")
    return lambda values: any(least <= number <= most for value in values if (number := key(value)) is not None)


def _in_texts(
    key: Callable[[str], str], low: str | None, high: str | None, *, wraps: bool = False
) -> Callable[[Values], bool]:
    """Is the text of a value, cut to the length of each bound, in the range? One that `wraps` may pass midnight."""
    least, most = low or "", high or ""
    shared = min(len(least), len(most))
    if least[:shared] <= most[:shared]:
        return lambda values: any(
            least <= text[: len(least)] and text[: len(most)] <= most for value in values if (text := key(value))
        )
    if not wraps:
        raise unfit("`from` is after `to`")
    return lambda values: any(
        least <= text[: len(least)] or text[: len(most)] <= most for value in values if (text := key(value))
    )


def _bound(key: Callable[[str], T | None], text: str | None) -> T | None:
    if text is None:
        return None
    found = key(text)
    if found is None:
        raise unfit(f'"{text}" cannot be compared; expected a bound such as "18:00", "2026-01-31" or "018Y"')
    return found


def _days(age: str) -> float | None:
    found = _AGE.fullmatch(age)
    return int(found[1]) * _DAYS[found[2]] if found else None


def _clock(text: str) -> str | None:
    found = _CLOCK.fullmatch(text)
    return found[1].zfill(2) + "".join(found.groups("")[1:]) if found else None


def _moment(text: str) -> str | None:
    found = _MOMENT.fullmatch(text)
    return "".join(found.groups("")) if found else None


def _digits(text: str) -> str:
    """YYYYMMDDHHMMSS of a DA or DT value, or of ReceivedAt; empty if it is none. UTC offsets are passed over."""
    digits = text.partition("+")[0].translate(_SEPARATORS)
    return digits.ljust(14, "0") if digits.isdigit() else ""


def _time_of_day(text: str) -> str:
    """HHMMSS of a TM value, or of ReceivedAt; empty if it is none."""
    return _digits(text.rpartition("T")[2])
