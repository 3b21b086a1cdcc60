"""Corrections of an outgoing copy: pure decisions from the object, the facts and the rules.

Demographics of today come first, then the [coerce] rules in the order of the files; each rule sees what those before
it have made. What nothing changes is not in the `AttributeCorrection`, and nothing at all is None: the copy is then the
original. Promise: to apply the same rules to their own result changes nothing (a rule for which that is not so fails).

A rule that fails raises RuleFailed with its name: the object is held, never sent as if no rule had matched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from edge.config.coercion import ISSUERS, Change, Coercion
from edge.config.conditions import FACTS, Condition, compile_condition
from edge.config.legal_values import value_fault
from edge.dicom.elements import CHARACTER_SET
from edge.errors import TransformError
from edge.identity.today import is_same_name
from edge.model import InstanceHeader, Values
from edge.model.dictionary import tag_for_keyword

#: The name under which demographics of today are on record, beside the names of rules.
DEMOGRAPHICS = "demographics"
PATIENT_ID_TAG, ISSUER_OF_PATIENT_ID, _PATIENT_NAME = 0x00100020, 0x00100021, 0x00100010
_BIRTH_DATE, SEX = 0x00100030, 0x00100040
#: What describes the issuer further (PS3.3 section 10.14): it does not describe another one.
ISSUER_QUALIFIERS = 0x00100024
_DEMOGRAPHIC_VRS = {PATIENT_ID_TAG: "LO", ISSUER_OF_PATIENT_ID: "LO", _PATIENT_NAME: "PN", _BIRTH_DATE: "DA", SEX: "CS"}


class RuleFailed(TransformError):
    """A rule could not be applied to an object. `rule`: its name; `why`: what is wrong, without any value."""

    def __init__(self, rule: str, why: str) -> None:
        super().__init__(f"rule {rule}: {why}")
        self.rule, self.why = rule, why


class Attribute(NamedTuple):
    """What an attribute of the first level has. `values` None: it is absent."""

    vr: str
    values: Values | None
    is_padded: bool = False  # with more spaces around its values than even length asks for


@dataclass(frozen=True, slots=True)
class TodayFacts:
    """What the systems say today of the patient of an image, as far as they know it; empty: not known, unchanged."""

    patient_id: str = ""
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    changed_at: float = 0.0  # seconds since 1970
    order: Mapping[str, str] = field(default_factory=dict)  # as edge.config.coercion.ORDER_FIELDS names them
    order_changed_at: float = 0.0

    def demographics(self) -> dict[int, str]:
        found = {PATIENT_ID_TAG: self.patient_id, ISSUER_OF_PATIENT_ID: self.issuer, _PATIENT_NAME: self.name}
        return {tag: value for tag, value in {**found, _BIRTH_DATE: self.birth_date, SEX: self.sex}.items() if value}


NO_FACTS = TodayFacts()
AttributeValues = dict[int, Attribute]
Step = Callable[[AttributeValues, TodayFacts], None]


@dataclass(frozen=True, slots=True)
class CompiledCoercion:
    """A [coerce] rule, compiled."""

    name: str
    conditions: tuple[Condition, ...]
    steps: tuple[Step, ...]
    touched: frozenset[int]
    uses_order: bool
    since: float = 0.0  # when the rule became active, seconds since 1970


@dataclass(frozen=True, slots=True)
class AttributeCorrection:
    """What an outgoing copy has otherwise than the original."""

    attributes: AttributeValues  # the changed ones; those with `values` None are removed
    rules: tuple[str, ...]  # that changed something, DEMOGRAPHICS among them
    at: float  # of the latest fact or rule, seconds since 1970: the same for each retry

    @property
    def reason(self) -> str:
        """Reason for the Attribute Modification (0400,0565), PS3.3 section C.12.1.1.9."""
        return "CORRECT" if DEMOGRAPHICS in self.rules else "COERCE"


@dataclass(frozen=True, slots=True)
class CorrectionRules:
    """The rules for one destination, in order."""

    rules: tuple[CompiledCoercion, ...] = ()
    facts_last: bool = False  # the demographics of today come after the first rule: a result has its patient from that

    @property
    def tags(self) -> frozenset[int]:
        """The attributes of the first level that the rules read or change."""
        asked = {keyword_tag(each.keyword) for rule in self.rules for each in rule.conditions}
        touched = (rule.touched for rule in self.rules)
        return frozenset(asked).union(_DEMOGRAPHIC_VRS, (ISSUER_QUALIFIERS,), *touched)

    @property
    def nested_tags(self) -> dict[int, str]:
        """What conditions ask for that may also be found inside sequences: what no rule changes. Tag -> keyword."""
        asked = {keyword_tag(each.keyword): each.keyword for rule in self.rules for each in rule.conditions}
        touched = frozenset[int]().union(*(rule.touched for rule in self.rules))
        return {tag: keyword for tag, keyword in asked.items() if tag and tag not in touched}

    def correct(self, header: InstanceHeader, found: AttributeValues, facts: TodayFacts) -> AttributeCorrection | None:
        """What changes of an object whose attributes are `found` (those of `tags`). Raises RuleFailed."""
        once, rules, at = self._apply(header, found, facts)
        changed = {tag: each for tag, each in once.items() if each != found.get(tag, _absent(each))}
        if not changed:
            return None
        self._check(changed)
        again, unstable, _ = self._apply(header, once, facts)
        if again != once:
            raise RuleFailed(unstable[-1], "it changes its own result when it is applied again")
        return AttributeCorrection(changed, tuple(rules), at)

    def declared_charset(self, header: InstanceHeader, found: AttributeValues, facts: TodayFacts) -> Values:
        """The character set that a rule declares for an object that declares none. Raises RuleFailed."""
        if not any(CHARACTER_SET in rule.touched for rule in self.rules) or _has_charset(found):
            return ()
        now, _, _ = self._apply(header, found, facts)
        return now[CHARACTER_SET].values or () if _has_charset(now) else ()

    def _apply(
        self, header: InstanceHeader, found: AttributeValues, facts: TodayFacts
    ) -> tuple[AttributeValues, list[str], float]:
        now = dict(found)
        rules: list[str] = []
        at = 0.0
        ordered: list[CompiledCoercion | None] = [None, *self.rules]
        if self.facts_last:
            ordered[0:2] = [self.rules[0], None]
        for rule in ordered:
            if rule is None:
                if _write_demographics(now, facts):
                    rules.append(DEMOGRAPHICS)
                    at = max(at, facts.changed_at)
                continue
            before = dict(now)
            if all(each.holds(_header_of(header, now, each)) for each in rule.conditions):
                _run(rule, now, facts)
            if now != before:
                rules.append(rule.name)
                at = max(at, rule.since, facts.order_changed_at if rule.uses_order else 0.0)
        return now, rules, at

    def _check(self, changed: AttributeValues) -> None:
        for tag, each in changed.items():
            for value in each.values or ():
                if fault := value_fault(each.vr, value):
                    name = next((rule.name for rule in reversed(self.rules) if tag in rule.touched), DEMOGRAPHICS)
                    raise RuleFailed(name, f"({tag >> 16:04X},{tag & 0xFFFF:04X}) would have {fault}")


NO_RULES = CorrectionRules()


def _absent(attribute: Attribute) -> Attribute:
    return Attribute(attribute.vr, None)


def _header_of(header: InstanceHeader, now: AttributeValues, condition: Condition) -> InstanceHeader:
    """The facts that a condition asks for, with what the rules before have made."""
    if condition.keyword in FACTS:
        return header
    tag = keyword_tag(condition.keyword)
    if (found := now.get(tag)) is None:
        return header
    return replace(header, attributes={**header.attributes, condition.keyword: found.values or ()})


def keyword_tag(keyword: str) -> int:
    return tag_for_keyword(keyword) or 0


def _run(rule: CompiledCoercion, now: AttributeValues, facts: TodayFacts) -> None:
    for step in rule.steps:
        try:
            step(now, facts)
        except Exception as error:
            # Its own words could quote a value.
            raise RuleFailed(rule.name, f"it raises {type(error).__name__}") from error


# -- demographics of today ---------------------------------------------------------------------------------------------


def _write_demographics(now: AttributeValues, facts: TodayFacts) -> bool:
    changed = False
    issuer = now.get(ISSUER_OF_PATIENT_ID)
    for tag, value in facts.demographics().items():
        found = now.get(tag, Attribute(_DEMOGRAPHIC_VRS[tag], None))
        first = found.values[0] if found.values else ""
        if not (is_same_name(first, value) if tag == _PATIENT_NAME else first == value):
            now[tag] = Attribute(found.vr, (value,))
            changed = True
    if issuer is not None and issuer.values and now[ISSUER_OF_PATIENT_ID] != issuer:
        qualifiers = now.get(ISSUER_QUALIFIERS)
        if qualifiers is not None:
            now[ISSUER_QUALIFIERS] = Attribute(qualifiers.vr, None)
    return changed


# -- the steps ---------------------------------------------------------------------------------------------------------


def compile_coercion(rule: Coercion, since: float) -> CompiledCoercion:
    """The steps of a rule, in the order in which they are applied."""
    made = (
        *(_setting(each) for each in rule.set),
        *(_removal(each) for each in rule.remove),
        *(_trimming(each) for each in rule.trim),
        *(_prefixing(each) for each in rule.prefix),
        *(_mapping(each) for each in rule.map),
        *(_replacing(each) for each in rule.regex),
        *(_coding(each) if each.vr == "SQ" else _copying(each) for each in rule.from_order),
        *((_declaring(rule.charset),) if rule.charset else ()),
        *(_naming_issuer(each) for each in rule.issuer),
    )
    lines = (*rule.set, *rule.remove, *rule.trim, *rule.prefix, *rule.map, *rule.regex, *rule.from_order, *rule.issuer)
    touched = {each.tag for each in lines} | ({CHARACTER_SET} if rule.charset else set())
    if any(each.vr == "SQ" for each in rule.issuer):
        touched.add(_ACCESSION)
    conditions = tuple(compile_condition(keyword, value) for keyword, value in rule.when.items())
    return CompiledCoercion(rule.name, conditions, made, frozenset(touched), bool(rule.from_order), since)


def rules_for(coercions: Iterable[Coercion], since: Callable[[str], float] = lambda _: 0.0) -> CorrectionRules:
    """The rules for one destination, from those that the configuration has for it (`Config.coercions_for`)."""
    return CorrectionRules(tuple(compile_coercion(each, since(each.name)) for each in coercions))


_ACCESSION = 0x00080050


def _setting(change: Change) -> Step:
    return lambda now, _: _put(now, change, change.operand)


def _put(now: AttributeValues, change: Change, values: Values) -> None:
    """Give an attribute values that it has not."""
    found = now.get(change.tag)
    if found is None or found.values != values:
        now[change.tag] = Attribute(found.vr if found is not None else change.vr, values)


def _removal(change: Change) -> Step:
    def step(now: AttributeValues, _: TodayFacts) -> None:
        if (found := now.get(change.tag)) is not None and found.values is not None:
            now[change.tag] = Attribute(found.vr, None)

    return step


def _trimming(change: Change) -> Step:
    def step(now: AttributeValues, _: TodayFacts) -> None:
        if (found := now.get(change.tag)) is not None and found.values:
            now[change.tag] = Attribute(found.vr, tuple(each.strip() for each in found.values))

    return step


def _each_value(change: Change, convert: Callable[[str], str]) -> Step:
    """A step that converts each value of an attribute that has any."""

    def step(now: AttributeValues, _: TodayFacts) -> None:
        if (found := now.get(change.tag)) is not None and found.values:
            values = tuple(convert(each) if each else each for each in found.values)
            if values != found.values:
                now[change.tag] = Attribute(found.vr, values)

    return step


def _prefixing(change: Change) -> Step:
    prefix: str = change.operand
    return _each_value(change, lambda value: value if value.startswith(prefix) else prefix + value)


def _mapping(change: Change) -> Step:
    pairs: Mapping[str, str] = change.operand
    return _each_value(change, lambda value: pairs.get(value, value))


def _replacing(change: Change) -> Step:
    expression: re.Pattern[str]
    expression, replacement = change.operand

    def convert(value: str) -> str:
        match = expression.fullmatch(value)
        return match.expand(replacement) if match else value

    return _each_value(change, convert)


def _copying(change: Change) -> Step:
    def step(now: AttributeValues, facts: TodayFacts) -> None:
        if value := facts.order.get(change.operand, ""):
            _put(now, change, (value,))

    return step


#: Of edge.identity.order.Order: what an item of a code sequence has (PS3.3 section 8.8).
CODE_FIELDS = ("procedure_code", "procedure_scheme", "procedure_text")


def _coding(change: Change) -> Step:
    """A sequence with the code of the order's procedure, where there is none."""

    def step(now: AttributeValues, facts: TodayFacts) -> None:
        code, scheme, text = (facts.order.get(each, "") for each in CODE_FIELDS)
        found = now.get(change.tag)
        if code and scheme and not (found is not None and found.values):
            now[change.tag] = Attribute(change.vr, (code, scheme, text or code))

    return step


def _has_charset(now: AttributeValues) -> bool:
    found = now.get(CHARACTER_SET)
    return found is not None and any(found.values or ())


def _declaring(terms: Sequence[str]) -> Step:
    def step(now: AttributeValues, _: TodayFacts) -> None:
        if not _has_charset(now):
            now[CHARACTER_SET] = Attribute("CS", tuple(terms))

    return step


def _naming_issuer(change: Change) -> Step:
    """IssuerOfPatientID, or the sequence that names the issuer of an accession number, where there is none."""

    def step(now: AttributeValues, _: TodayFacts) -> None:
        found = now.get(change.tag)
        if found is not None and found.values:
            return
        owner = PATIENT_ID_TAG if change.keyword == ISSUERS["PatientID"] else _ACCESSION
        number = now.get(owner)
        if number is not None and any(number.values or ()):
            now[change.tag] = Attribute(change.vr, (change.operand,))

    return step


def modifying_system(site: str) -> str:
    """Modifying System (0400,0563), an LO."""
    return f"Edge {site}"[:64]
