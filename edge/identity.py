"""Are two patients, as two objects name them, the same person or animal? Pure, and explained.

What names a patient is the Patient ID with its issuer, the name, the birth date, the sex, and for an animal who is
responsible for it (PS3.3 C.2.2, C.7.1.1). An attribute that one of the two lacks says nothing: it makes no other
patient, and it proves none either.

- The same ID is the same patient, unless the name or the birth date says otherwise.
- Another ID is another patient, also with the same name and birth date: somebody has to say which is right. So is the
  same number of another issuer.
- Without an ID on both sides, name and birth date decide.

Names are compared by PS3.5 section 6.2.1: by component, without case, diacritics, punctuation and padding. Where both
have ideographs, these decide, since many spellings in letters stand for one name and many names for one spelling.

Limits: neither a change of name nor two numbers of one patient is known here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Patient:
    """Whose an object is, in its own words; empty where it does not say."""

    patient_id: str = ""
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    responsible_person: str = ""  # of an animal


class Likeness(Enum):
    """What two values, or two patients, say together."""

    SAME = "same"
    UNKNOWN = "unknown"  # one of them is silent, or neither proves it
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result, and what the two differ in: of `id`, `issuer`, `name`, `birth-date`, `sex`, `responsible-person`."""

    likeness: Likeness
    differs_in: tuple[str, ...] = ()
    is_near: bool = False  # an ID, a name or a birth date is the same, and nothing is different


class Standing(str, Enum):
    """How a patient stands to those who were found in the study before."""

    AGREES = "agrees"
    DIFFERS = "differs"  # a mismatch: a person decides
    ACCEPTED = "accepted"  # a person let an image of this patient go on in this study


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a patient stands to those already known of a study; `against`: the place of the first that differs."""

    standing: Standing
    differs_in: tuple[str, ...] = ()
    against: int | None = None


SAME, UNKNOWN, DIFFERENT = Likeness


def judge(patient: Patient, agreeing: Sequence[Patient], accepted: Sequence[Patient] = ()) -> Judgement:
    """How does a patient stand in a study with these?

    It agrees when it differs from none of those that agree: one of them without an ID lets nobody pass whose ID is
    another's. It is accepted like one that a person has accepted, when it differs from no other spelling of that.
    """
    for place, each in enumerate(agreeing):
        found = compare(patient, each)
        if found.likeness is DIFFERENT:
            if any(_is_another_of(patient, one, accepted) for one in accepted):
                return Judgement(Standing.ACCEPTED)
            return Judgement(Standing.DIFFERS, found.differs_in, place)
    return Judgement(Standing.AGREES)


def _is_another_of(patient: Patient, one: Patient, accepted: Iterable[Patient]) -> bool:
    """Is it another spelling of `one`, as all spellings of that have it?"""
    spellings = [each for each in accepted if compare(one, each).likeness is not DIFFERENT]
    return compare(patient, one).is_near and all(compare(patient, each).likeness is not DIFFERENT for each in spellings)


def compare(a: Patient, b: Patient) -> Comparison:
    """Are these the same patient? See the module's rules."""
    found = {
        "id": _equal(_text(a.patient_id), _text(b.patient_id)),
        "issuer": _equal(_text(a.issuer).casefold(), _text(b.issuer).casefold()),
        "name": compare_names(a.name, b.name),
        "birth-date": _equal(_date(a.birth_date), _date(b.birth_date)),
        "sex": _equal(_sex(a.sex), _sex(b.sex)),
        "responsible-person": compare_names(a.responsible_person, b.responsible_person),
    }
    likeness = _likeness(found)
    if likeness is DIFFERENT:
        return Comparison(likeness, tuple(what for what, each in found.items() if each is DIFFERENT))
    return Comparison(likeness, (), SAME in (found["id"], found["name"], found["birth-date"]))


def _likeness(found: dict[str, Likeness]) -> Likeness:
    number, name, born = found["id"], found["name"], found["birth-date"]
    if DIFFERENT in (number, name, born) or (number is SAME and found["issuer"] is DIFFERENT):
        return DIFFERENT
    if number is SAME:
        return SAME
    if found["responsible-person"] is DIFFERENT:  # two animals of one name, or two children
        return DIFFERENT
    if name is SAME and born is SAME:
        return SAME
    return DIFFERENT if found["sex"] is DIFFERENT else UNKNOWN


def _equal(a: str, b: str) -> Likeness:
    if not a or not b:
        return UNKNOWN
    return SAME if a == b else DIFFERENT


def _text(value: str) -> str:
    return value.replace("\0", "").strip()


def _date(value: str) -> str:
    """A whole date (PS3.5 section 6.2, DA, also as ACR-NEMA wrote it); a year alone is none."""
    digits = re.sub(r"[.\-/\s\0]", "", value)
    return digits if re.fullmatch(r"(?!0000)\d{4}(?!00)\d{2}(?!00)\d{2}", digits) else ""


def _sex(value: str) -> str:
    """O is what the others are not, or not known: it contradicts nothing."""
    letter = _text(value).upper()
    return letter if letter in ("M", "F") else ""


# -- names ------------------------------------------------------------------------------------------------------------

#: Letters with a stroke or of two letters, which Unicode does not take apart.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i", "ħ": "h", "ŧ": "t"}
)
#: How the umlauts are written where there are none.
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_DIACRITICS = re.compile("[\u0300-\u036f]")
_UNDECODED = "\ufffd"

#: Names as the comparison takes them: words of each component, family name first.
Name = tuple[tuple[str, ...], ...]


def compare_names(a: str, b: str) -> Likeness:
    """Do two values of VR PN name the same person?"""
    return _compare_names(a, b)


@lru_cache(maxsize=1024)
def _compare_names(a: str, b: str) -> Likeness:
    if a == b and _groups(a):
        return SAME
    mine, theirs = _groups(a), _groups(b)
    for group in ("ideographic", "alphabetic", "phonetic"):
        if group in mine and group in theirs:
            return _compare_groups(mine[group], theirs[group])
    return UNKNOWN


def _groups(value: str) -> dict[str, str]:
    """The component groups that say something, by name. Ideographs in the place of the letters are taken for theirs."""
    names = ("alphabetic", "ideographic", "phonetic")
    found = {k: v for k, v in zip(names, _text(value).split("="), strict=False) if any(c.isalnum() for c in v)}
    letters = found.get("alphabetic", "")
    if "ideographic" not in found and any(_is_ideograph(c) for c in letters):
        found["ideographic"] = found.pop("alphabetic")
    return found


def _is_ideograph(char: str) -> bool:
    return "\u3400" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7a3" or char >= "\U00020000"


def _compare_groups(a: str, b: str) -> Likeness:
    """Two component groups; the spellings of each that agree best count."""
    found = {_compare_spelt(x, y) for x in _spellings(a) for y in _spellings(b)}
    return next(each for each in (SAME, UNKNOWN, DIFFERENT) if each in found)


def _spellings(group: str) -> set[Name]:
    """A group as it can be meant: umlauts may be written as two letters, UTF-8 may have been read as Latin-1."""
    texts = {group}
    try:
        texts.add(group.encode("latin_1").decode("utf-8"))
    except UnicodeError:
        pass  # it is what it is
    return {spelt for text in texts for spelt in _spelt(text)}


def _spelt(text: str) -> Iterator[Name]:
    folded = unicodedata.normalize("NFC", text).casefold()
    for table in (_UMLAUTS, {}):
        plain = _DIACRITICS.sub("", unicodedata.normalize("NFKD", folded.translate(table))).translate(_LETTERS)
        kana = "".join(chr(ord(c) + 0x60) if "\u3041" <= c <= "\u3096" else c for c in plain)
        yield tuple(tuple(_words(each)) for each in unicodedata.normalize("NFC", kana).split("^"))


def _words(component: str) -> list[str]:
    """Letters and digits; what cannot be decoded stays, as a letter that may be any. Apostrophes divide nothing."""
    joined = re.sub(r"['`\u00b4\u2019]", "", component)
    return re.findall(rf"[\w{_UNDECODED}]+", joined.replace("_", " "))


def _compare_spelt(a: Name, b: Name) -> Likeness:
    a, b = _padded(a), _padded(b)
    if not (any(a[1:3]) and any(b[1:3])):  # written without components: the words alone can be compared
        return _compare_words([w for part in a[:3] for w in part], [w for part in b[:3] for w in part])
    family, given, middle = (_compare_parts(a[place], b[place]) for place in range(3))
    if DIFFERENT in (family, given, middle, _compare_parts(a[4], b[4])):
        return DIFFERENT
    return SAME if family is SAME and given is SAME else UNKNOWN


def _padded(name: Name) -> Name:
    """Family, given, middle, prefix and suffix (PS3.5 section 6.2.1.1)."""
    return (*name, (), (), (), (), ())[:5]


def _compare_parts(a: tuple[str, ...], b: tuple[str, ...]) -> Likeness:
    x, y = "".join(a), "".join(b)
    if not x or not y:
        return UNKNOWN
    if x == y:
        return SAME
    if _UNDECODED in x or _UNDECODED in y:
        return UNKNOWN if _may_be(x, y) or _may_be(y, x) else DIFFERENT
    return UNKNOWN if min(len(x), len(y)) == 1 and x[0] == y[0] else DIFFERENT  # an initial


def _may_be(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(_UNDECODED, ".{1,4}"), text) is not None


def _compare_words(a: list[str], b: list[str]) -> Likeness:
    if not a or not b:
        return UNKNOWN
    if sorted(a) == sorted(b) or "".join(a) == "".join(b):
        return SAME
    if _UNDECODED in "".join(a + b):
        return UNKNOWN
    return UNKNOWN if set(a) <= set(b) or set(b) <= set(a) else DIFFERENT
