"""Comparison of patients: do two objects name the same person or animal? Pure, with the differences.

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
    """The patient that an object names; attributes that it lacks are empty."""

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
    """How a patient relates to those found in the study before."""

    AGREES = "agrees"
    DIFFERS = "differs"  # a mismatch: a person decides
    ACCEPTED = "accepted"  # a person let an image of this patient go on in this study


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a patient relates to those of a study; `against`: the index of the first that differs."""

    standing: Standing
    differs_in: tuple[str, ...] = ()
    against: int | None = None


_SAME, _UNKNOWN, _DIFFERENT = Likeness


def classify_patient(patient: Patient, agreeing: Sequence[Patient], accepted: Sequence[Patient] = ()) -> Judgement:
    """Compare a patient with those of a study.

    The patient agrees when it differs from none of `agreeing`; one of them without an ID does not cover a patient whose
    ID is different. It is accepted when it is a spelling of one that a person has accepted.
    """
    for place, each in enumerate(agreeing):
        found = compare_patients(patient, each)
        if found.likeness is _DIFFERENT:
            if any(_is_another_of(patient, one, accepted) for one in accepted):
                return Judgement(Standing.ACCEPTED)
            return Judgement(Standing.DIFFERS, found.differs_in, place)
    return Judgement(Standing.AGREES)


def _is_another_of(patient: Patient, one: Patient, accepted: Iterable[Patient]) -> bool:
    """Check that a patient is another spelling of `one`, and differs from no spelling of `one`."""
    spellings = [each for each in accepted if compare_patients(one, each).likeness is not _DIFFERENT]
    return compare_patients(patient, one).is_near and all(
        compare_patients(patient, each).likeness is not _DIFFERENT for each in spellings
    )


def compare_patients(a: Patient, b: Patient) -> Comparison:
    """Compare two patients by the module's rules."""
    found = {
        "id": _equal(_text(a.patient_id), _text(b.patient_id)),
        "issuer": _equal(_text(a.issuer).casefold(), _text(b.issuer).casefold()),
        "name": compare_names(a.name, b.name),
        "birth-date": _equal(_date(a.birth_date), _date(b.birth_date)),
        "sex": _equal(_sex(a.sex), _sex(b.sex)),
        "responsible-person": compare_names(a.responsible_person, b.responsible_person),
    }
    likeness = _likeness(found)
    if likeness is _DIFFERENT:
        return Comparison(likeness, tuple(what for what, each in found.items() if each is _DIFFERENT))
    return Comparison(likeness, (), _SAME in (found["id"], found["name"], found["birth-date"]))


def _likeness(found: dict[str, Likeness]) -> Likeness:
    number, name, born = found["id"], found["name"], found["birth-date"]
    if _DIFFERENT in (number, name, born) or (number is _SAME and found["issuer"] is _DIFFERENT):
        return _DIFFERENT
    if number is _SAME:
        return _SAME
    if found["responsible-person"] is _DIFFERENT:  # two animals of one name, or two children
        return _DIFFERENT
    if name is _SAME and born is _SAME:
        return _SAME
    return _DIFFERENT if found["sex"] is _DIFFERENT else _UNKNOWN


def _equal(a: str, b: str) -> Likeness:
    if not a or not b:
        return _UNKNOWN
    return _SAME if a == b else _DIFFERENT


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


@lru_cache(maxsize=1024)
def compare_names(a: str, b: str) -> Likeness:
    """Compare two values of VR PN: do they name the same person?"""
    if a == b and _groups(a):
        return _SAME
    mine, theirs = _groups(a), _groups(b)
    for group in ("ideographic", "alphabetic", "phonetic"):
        if group in mine and group in theirs:
            return _compare_groups(mine[group], theirs[group])
    return _UNKNOWN


def _groups(value: str) -> dict[str, str]:
    """The component groups that say something, by name. Ideographs in the place of letters count as ideographs."""
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
    return next(each for each in (_SAME, _UNKNOWN, _DIFFERENT) if each in found)


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
    a, b = _pad_components(a), _pad_components(b)
    if not (any(a[1:3]) and any(b[1:3])):  # written without components: the words alone can be compared
        return _compare_words([w for part in a[:3] for w in part], [w for part in b[:3] for w in part])
    family, given, middle = (_compare_parts(a[place], b[place]) for place in range(3))
    if _DIFFERENT in (family, given, middle, _compare_parts(a[4], b[4])):
        return _DIFFERENT
    return _SAME if family is _SAME and given is _SAME else _UNKNOWN


def _pad_components(name: Name) -> Name:
    """Family, given, middle, prefix and suffix (PS3.5 section 6.2.1.1)."""
    return (*name, (), (), (), (), ())[:5]


def _compare_parts(a: tuple[str, ...], b: tuple[str, ...]) -> Likeness:
    x, y = "".join(a), "".join(b)
    if not x or not y:
        return _UNKNOWN
    if x == y:
        return _SAME
    if _UNDECODED in x or _UNDECODED in y:
        return _UNKNOWN if _may_be(x, y) or _may_be(y, x) else _DIFFERENT
    return _UNKNOWN if min(len(x), len(y)) == 1 and x[0] == y[0] else _DIFFERENT  # an initial


def _may_be(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(_UNDECODED, ".{1,4}"), text) is not None


def _compare_words(a: list[str], b: list[str]) -> Likeness:
    if not a or not b:
        return _UNKNOWN
    if sorted(a) == sorted(b) or "".join(a) == "".join(b):
        return _SAME
    if _UNDECODED in "".join(a + b):
        return _UNKNOWN
    return _UNKNOWN if set(a) <= set(b) or set(b) <= set(a) else _DIFFERENT
