"""[coerce.NAME]: corrections of the copy that goes out, as a site writes them.

The kinds check keywords, values and expressions here; edge.transform.corrections makes steps of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from edge.config import kinds
from edge.config.legal_values import value_fault
from edge.config.parsers import compile_regex
from edge.config.values import Unfit, ValueKind, did_you_mean, format_value, is_number, read_parts, unfit
from edge.model.character_sets import CODECS
from edge.model.dictionary import TAGS_BY_KEYWORD, dictionary_vr, tag_for_keyword

#: What `from_order` copies: keyword -> field of edge.identity.order.Order, or of its patient.
ORDER_FIELDS = {
    "AccessionNumber": "accession",
    "FillerOrderNumberImagingServiceRequest": "filler_number",
    "IssuerOfPatientID": "patient.issuer",
    "PatientBirthDate": "patient.birth_date",
    "PatientID": "patient.patient_id",
    "PatientName": "patient.name",
    "PatientSex": "patient.sex",
    "PlacerOrderNumberImagingServiceRequest": "placer_number",
    "ReferringPhysicianName": "referring_physician",
    "RequestedProcedureDescription": "procedure_text",
    "RequestedProcedureID": "procedure_id",
    "StudyDescription": "procedure_text",
}
#: Sequences with the code of the order's procedure (PS3.3 section 8.8); written where the object has none.
ORDER_CODES = frozenset({"ProcedureCodeSequence", "RequestedProcedureCodeSequence"})
#: Identifiers that have an issuer: where it is written.
ISSUERS = {"PatientID": "IssuerOfPatientID", "AccessionNumber": "IssuerOfAccessionNumberSequence"}
_IDENTITY = frozenset({"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"})
_KEPT = frozenset({"SpecificCharacterSet", "OriginalAttributesSequence"})
_IMAGE_GROUP, _BURNED_IN = 0x0028, 0x00280301


class Change(NamedTuple):
    """One line of a rule: an attribute of the first level, and what the rule has for it."""

    keyword: str
    tag: int
    vr: str  # of the dictionary (PS3.6)
    operand: Any = None


def read_change(keyword: str, operand: Any = None, *, whole: bool = False) -> Change:
    """A line about an attribute that a rule may change. `whole`: a sequence, too. Raises Unfit."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        near = did_you_mean(keyword, TAGS_BY_KEYWORD)
        raise unfit(f"not a DICOM keyword{near or '; expected one of the data dictionary (PS3.6)'}")
    vr = dictionary_vr(tag).split(" ")[0]
    if keyword in _IDENTITY:
        raise unfit("identifies the object: no rule changes it")
    if keyword in _KEPT:
        raise unfit("is kept by Edge itself; `charset` declares a character set where there is none")
    group = tag >> 16
    if not 0x0008 <= group < 0x5000 or (group == _IMAGE_GROUP and tag != _BURNED_IN):
        raise unfit("describes pixels, or is outside of the header: no rule changes it")
    if not whole and (vr in ("SQ", "UN", "AT") or vr.startswith("O")):
        raise unfit(f"has no text (VR {vr}); it can only be removed")
    return Change(keyword, int(tag), vr, operand)


def _changes(value: object, read: Callable[[str, Any], Change]) -> tuple[Change, ...]:
    if not isinstance(value, dict):
        raise ValueError
    return read_parts(value.items(), read)


def _texts(value: object, vr: str) -> tuple[str, ...]:
    """One value or several, as a rule sets them."""
    given = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) or is_number(each) for each in given):
        raise unfit(f"expected text, a number or a list of them, found {format_value(value)}")
    found = tuple(str(each) for each in given)
    for each in found:
        if fault := value_fault(vr, each):
            raise unfit(f"{fault}: found {format_value(each)}")
    return () if found == ("",) else found


def _set(keyword: str, value: Any) -> Change:
    change = read_change(keyword)
    return change._replace(operand=_texts(value, change.vr))


def _prefix(keyword: str, value: Any) -> Change:
    if not isinstance(value, str) or not value:
        raise unfit(f"expected text in quotes, found {format_value(value)}")
    return read_change(keyword, value)


def _map(keyword: str, value: Any) -> Change:
    change = read_change(keyword)
    if not isinstance(value, dict) or not value:
        raise unfit(f'expected a table such as {{ "old" = "new" }}, found {format_value(value)}')
    pairs = dict(read_parts(value.items(), lambda old, new: (old, "".join(_texts(new, change.vr)[:1]))))
    for new in pairs.values():
        if pairs.get(new, new) != new:
            raise unfit(f"{format_value(new)} is mapped again: the rule would change its own result")
    return change._replace(operand=pairs)


def _regex(keyword: str, value: Any) -> Change:
    """`["^0*([0-9]+)$", "\\\\1"]`, or a table of match and replace."""
    change = read_change(keyword)
    if isinstance(value, dict) and value.keys() == {"match", "replace"}:
        value = [value["match"], value["replace"]]
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)):
        raise unfit(f'expected ["expression", "replacement"], found {format_value(value)}')
    try:
        expression = compile_regex(value[0])
    except ValueError as error:
        raise unfit(f"expected a regular expression, found {format_value(value[0])}{error}") from None
    _check_groups(expression, value[1])
    return change._replace(operand=(expression, value[1]))


def _check_groups(expression: re.Pattern[str], replacement: str) -> None:
    """Raises Unfit where the replacement has groups that the expression has not."""
    try:
        re.compile(f"(?:{expression.pattern})|").sub(replacement, "")
    except (re.error, IndexError) as error:
        raise unfit(f"expected a replacement for that expression, found {format_value(replacement)}: {error}") from None


def _keywords(value: object, read: Callable[[str], Change]) -> tuple[Change, ...]:
    if not isinstance(value, list):
        raise ValueError(f"; write [{format_value(value)}]" if isinstance(value, str) else "")

    def read_one(_: int, keyword: Any) -> Change:
        if not isinstance(keyword, str):
            raise unfit(f"expected a DICOM keyword in quotes, found {format_value(keyword)}")
        return read(keyword)

    return read_parts(enumerate(value), read_one)


def _from_order(keyword: str) -> Change:
    if keyword in ORDER_CODES:
        return read_change(keyword, whole=True)
    if keyword not in ORDER_FIELDS:
        known = sorted({*ORDER_FIELDS, *ORDER_CODES})
        near = did_you_mean(keyword, known) or f"; expected one of {', '.join(known)}"
        raise unfit(f"no order has it{near}")
    return read_change(keyword, ORDER_FIELDS[keyword])


def _issuer(keyword: str, value: Any) -> Change:
    if keyword not in ISSUERS:
        raise unfit(f"has no issuer here; expected {' or '.join(ISSUERS)}")
    if not isinstance(value, str) or not value or value_fault("LO", value):
        raise unfit(f"expected the name of an authority in quotes, found {format_value(value)}")
    return read_change(ISSUERS[keyword], value, whole=True)


def _issuers(value: object) -> tuple[Change, ...]:
    """A table by identifier; text alone is the issuer of PatientID."""
    return _changes({"PatientID": value} if isinstance(value, str) else value, _issuer)


def _charset(value: object) -> tuple[str, ...]:
    """Defined Terms of Specific Character Set (PS3.3 section C.12.1.1.2)."""
    terms = [value] if isinstance(value, str) else value
    if not isinstance(terms, list) or not terms:
        raise ValueError
    for term in terms:
        if not isinstance(term, str) or (term and term not in CODECS):
            raise unfit(f"no character set of DICOM{did_you_mean(term, CODECS)}: found {format_value(term)}")
    return tuple(terms)


_SET = ValueKind('a table such as { InstitutionName = "Clinic" }', lambda value: _changes(value, _set))
_REMOVE = ValueKind("a list of keywords", lambda value: _keywords(value, lambda word: read_change(word, whole=True)))
_TRIM = ValueKind("a list of keywords", lambda value: _keywords(value, read_change))
_PREFIX = ValueKind('a table such as { PatientID = "A-" }', lambda value: _changes(value, _prefix))
_MAP = ValueKind('a table such as { StationName = { "OLD" = "NEW" } }', lambda value: _changes(value, _map))
_REGEX = ValueKind('a table such as { PatientID = ["0*(.+)", "\\\\1"] }', lambda value: _changes(value, _regex))
_FROM_ORDER = ValueKind("a list of keywords that an order has", lambda value: _keywords(value, _from_order))
_ISSUER = ValueKind('a table such as { PatientID = "MTF0067" }', _issuers)
_CHARSET = ValueKind('a character set such as "ISO_IR 100", or a list of them', _charset)


@dataclass(frozen=True, slots=True)
class Coercion:
    """[coerce.NAME]: what is corrected in the copy that goes out, where `when` holds."""

    name: str
    when: Annotated[dict[str, Any], kinds.WHEN] = field(default_factory=dict)
    to: Annotated[tuple[str, ...], kinds.DESTINATIONS] = ()  # empty: every destination
    set: Annotated[tuple[Change, ...], _SET] = ()
    remove: Annotated[tuple[Change, ...], _REMOVE] = ()
    trim: Annotated[tuple[Change, ...], _TRIM] = ()
    prefix: Annotated[tuple[Change, ...], _PREFIX] = ()
    map: Annotated[tuple[Change, ...], _MAP] = ()
    regex: Annotated[tuple[Change, ...], _REGEX] = ()
    from_order: Annotated[tuple[Change, ...], _FROM_ORDER] = ()
    charset: Annotated[tuple[str, ...], _CHARSET] = ()  # where the object declares none
    issuer: Annotated[tuple[Change, ...], _ISSUER] = ()  # where the object names none


__all__ = ["ISSUERS", "ORDER_FIELDS", "Change", "Coercion", "Unfit", "read_change"]
