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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from pydicom._uid_dict import UID_dictionary  # PS3.6 Annex A; pydicom gives it no public name
from pydicom.datadict import dictionary_VR

from edge.model import InstanceHeader, Values

T = TypeVar("T")
Look = Callable[[InstanceHeader], Values]


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
    """One line of a `when` table, ready to be asked. Raises Unfit."""
    return Condition(keyword, _matcher(_subject(keyword), value), FACTS.get(keyword) or _attribute(keyword))


def check_condition(keyword: str, condition: object) -> str:
    """What is wrong with a condition of a `when`, or an empty text: for `edge.config.load`."""
    try:
        compile_condition(keyword, condition)
    except Unfit as fault:
        return str(fault)
    return ""


class Unfit(ValueError):
    """The text says what was found, what was expected, and what to write instead."""


def _attribute(keyword: str) -> Look:
    return lambda facts: facts.attributes.get(keyword, ())


@dataclass(frozen=True, slots=True)
class Subject:
    """What a condition is about: how its values are written decides how they are compared."""

    keyword: str
    vr: str  # empty for the association's facts


def _subject(keyword: str) -> Subject:
    if keyword in FACTS and not keyword.endswith("UID"):
        return Subject(keyword, "")
    try:
        return Subject(keyword, dictionary_VR(keyword).split(" ")[0])
    except (KeyError, ValueError):
        raise Unfit("not a DICOM keyword; expected one such as Modality") from None


# -- one condition -----------------------------------------------------------------------------------------------------


def _matcher(subject: Subject, value: Any) -> Matcher:
    if isinstance(value, str):
        return _pattern(subject, value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _equal(subject, value)
    if isinstance(value, list) and value:
        return _any_of([_matcher(subject, each) for each in value])
    if isinstance(value, dict):
        return _table(subject, value)
    raise Unfit(f"expected text, a number, a list of them, or a table, found {value!r}")


def _any_of(matchers: list[Matcher]) -> Matcher:
    text, names = " or ".join(each.text for each in matchers), all(each.names for each in matchers)
    return Matcher(text, lambda values: any(each.holds(values) for each in matchers), names)


def _table(subject: Subject, table: Mapping[str, Any]) -> Matcher:
    match table:
        case {"not": value, **rest} if not rest:
            return _negated(_matcher(subject, value))
        case {"regex": str(regex), **rest} if not rest:
            return _regex(regex)
        case {"present": bool(present), **rest} if not rest:
            return Matcher("present" if present else "absent", lambda values: bool(values) == present, names=False)
    if table and table.keys() <= {"from", "to"}:
        return _range(subject, table.get("from"), table.get("to"))
    raise Unfit(f"expected exactly one of not, regex, from/to or present, found {' and '.join(table) or 'none'}")


def _negated(matcher: Matcher) -> Matcher:
    return Matcher(f"not {matcher.text}", lambda values: not matcher.holds(values), names=False)


def _regex(regex: str) -> Matcher:
    try:
        matches = re.compile(regex).fullmatch
    except re.error as error:
        raise Unfit(f"not a regular expression ({error})") from None
    return Matcher(f"/{regex}/", lambda values: any(matches(value) for value in values))


def _pattern(subject: Subject, text: str) -> Matcher:
    if not text:
        raise Unfit("empty text matches nothing; write { present = false }")
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
            raise Unfit(f'"{text}" is not a network; expected one such as "10.4.0.0/16"') from None
        return _glob(text, text)

    @lru_cache(maxsize=1024)
    def lies_within(address: str) -> bool:
        try:
            return ip_address(address) in network
        except ValueError:
            return False

    return Matcher(text, lambda values: any(map(lies_within, values)))


def _uid_name(text: str) -> Matcher:
    """UIDs by the names or keywords that PS3.6 gives them, such as "CT Image Storage" or "*SRStorage"."""
    known = {uid: (name, keyword) for uid, (name, _, _, _, keyword) in UID_dictionary.items()}
    fitting = frozenset(uid for uid, names in known.items() if any(fnmatchcase(name, text) for name in names))
    if not fitting:
        near = get_close_matches(text, [name for names in known.values() for name in names if name], n=1)
        raise Unfit(f'"{text}" is no name of a UID' + (f'; did you mean "{near[0]}"?' if near else ""))
    return Matcher(f'"{text}"', lambda values: not fitting.isdisjoint(values))


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NUMBER_VRS = frozenset({"DS", "IS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _equal(subject: Subject, number: float) -> Matcher:
    if subject.vr not in _NUMBER_VRS:  # "007" is not 7 where it names something
        return _glob(str(number), str(number))
    return Matcher(str(number), lambda values: any(_number(value) == number for value in values))


# -- ranges ------------------------------------------------------------------------------------------------------------

_CLOCK = re.compile(r"([01]?\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d))?)?")
_MOMENT = re.compile(r"(\d{4})(?:-?(\d\d)(?:-?(\d\d)(?:[T ]?(\d\d)(?::?(\d\d)(?::?(\d\d))?)?)?)?)?")
_AGE = re.compile(r"(\d{1,3})([DWMY])")  # PS3.5 section 6.2, AS
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_SEPARATORS = str.maketrans("", "", "-.:T")


def _range(subject: Subject, low: Any, high: Any) -> Matcher:
    text = " ".join(f"{word} {bound}" for word, bound in (("from", low), ("to", high)) if bound is not None)
    bounds = [bound for bound in (low, high) if bound is not None]
    if subject.keyword == "RemoteAddress":
        raise Unfit('addresses have no range; write a network such as "10.4.0.0/16"')
    if all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in bounds):
        if subject.vr in ("", "AS"):
            raise Unfit(f'expected bounds in quotes, such as "18:00" or "018Y", found {text}')
        return Matcher(text, _between(_number, low, high))
    if not all(isinstance(bound, str) and bound for bound in bounds):
        raise Unfit(f"expected both bounds as numbers or both as text, found {text}")
    if subject.vr in _NUMBER_VRS:
        raise Unfit(f"the values are numbers: write the bounds without quotes, found {text}")
    if subject.vr == "AS":
        return Matcher(text, _between(_days, _bound(_days, low), _bound(_days, high)))
    if subject.vr == "TM" or (subject.keyword == "ReceivedAt" and all(map(_CLOCK.fullmatch, bounds))):
        return Matcher(text, _within(_time_of_day, _bound(_clock, low), _bound(_clock, high), wraps=True))
    if subject.vr in ("DA", "DT") or subject.keyword == "ReceivedAt":
        return Matcher(text, _within(_digits, _bound(_moment, low), _bound(_moment, high)))
    return Matcher(text, _within(str, low, high))


def _between(key: Callable[[str], float | None], low: float | None, high: float | None) -> Callable[[Values], bool]:
    """Is the number that a value stands for in the range?"""
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if least > most:
        raise Unfit("`from` lies after `to`")
    return lambda values: any(least <= number <= most for value in values if (number := key(value)) is not None)


def _within(
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
        raise Unfit("`from` lies after `to`")
    return lambda values: any(
        least <= text[: len(least)] or text[: len(most)] <= most for value in values if (text := key(value))
    )


def _bound(key: Callable[[str], T | None], text: str | None) -> T | None:
    if text is None:
        return None
    found = key(text)
    if found is None:
        raise Unfit(f'"{text}" cannot be compared; expected a bound such as "18:00", "2026-01-31" or "018Y"')
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
