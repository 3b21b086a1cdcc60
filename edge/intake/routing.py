"""The destinations of an object: pure decisions from facts and rules.

Promise: every route that matches adds its destinations, and a destination of several routes gets the most urgent
priority, whatever their order. What no route matches gets no destination: the caller keeps and shows it. `explain` asks
the same conditions as `assign`. Rules are compiled once, and what cannot be compiled raises ConfigError, all at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from edge.config.conditions import FACTS, Condition, compile_condition
from edge.config.files import Key, fault_line
from edge.config.sections import HOLD_PREFIX, Config
from edge.config.values import Unfit, read_parts
from edge.errors import ConfigError
from edge.model import Assignment, Companion, Decision, InstanceHeader, Priority, Values
from edge.model.dictionary import STANDARD_UIDS

#: Storage SOP classes whose objects carry an image or a volume of their own, though "Image" is not in their name.
_PRIMARY = frozenset(
    {
        "CornealTopographyMapStorage",
        "DICOS2DAITStorage",
        "DICOS3DAITStorage",
        "DICOSQuadrupoleResonanceStorage",
        "EnhancedUSVolumeStorage",
        "InventoryStorage",
        "MRSpectroscopyStorage",
        "OphthalmicThicknessMapStorage",
        "ParametricMapStorage",
        "RawDataStorage",
        "StoredPrintStorage",
        "SurfaceScanMeshStorage",
        "SurfaceScanPointCloudStorage",
    }
)
#: Storage SOP classes without an image of their own: SR, KO, PR, SEG, RT objects, documents, waveforms ... (PS3.6 A).
IMAGELESS = frozenset(
    uid
    for uid, (_, kind, _, _, keyword) in STANDARD_UIDS.items()
    if kind == "SOP Class" and keyword.endswith(("Storage", "StorageTrial"))
    if "Image" not in keyword and keyword not in _PRIMARY
)
#: The same by Modality (PS3.3 section C.7.3.1.1.1), for SOP classes that PS3.6 did not have yet, and for private ones.
_IMAGELESS_MODALITIES = frozenset(
    (*("ANN", "ASMT", "AU", "DOC", "ECG", "EEG", "EMG", "EOG", "EPS", "FID", "HD", "KO", "M3D", "PLAN", "PR", "REG"),
     *("RESP", "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SMR", "SR"))
)  # fmt: skip
KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"
#: Keywords by which a route names a kind of object, and the title of a key object (its Concept Name Code Sequence).
_KINDS = frozenset({"Modality", "SOPClassUID"})
_TITLES = frozenset({"CodeValue", "CodeMeaning"})


def is_imageless(sop_class_uid: str, modality: str) -> bool:
    """Whether an object has no image of its own."""
    if sop_class_uid in STANDARD_UIDS:
        return sop_class_uid in IMAGELESS
    return modality in _IMAGELESS_MODALITIES


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """One condition, and what the object has for it."""

    keyword: str
    expected: str
    found: Values
    ok: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether one route matched, with each of its conditions."""

    route: str
    to: tuple[str, ...]
    priority: Priority
    matched: bool
    findings: tuple[ConditionResult, ...]


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    name: str
    to: tuple[str, ...]
    priority: Priority
    conditions: tuple[Condition, ...]
    companions: bool = True

    @property
    def names_kind(self) -> bool:
        """Whether it asks for a kind of object, and not for any."""
        return any(each.keyword in _KINDS and each.matcher.names for each in self.conditions)

    @property
    def asks_title(self) -> bool:
        """Whether it asks for the title of a key object (PS3.16 CID 7010)."""
        return any(each.keyword in _TITLES and each.matcher.names for each in self.conditions)


@dataclass(frozen=True, slots=True)
class CompiledHold:
    name: str
    studies: frozenset[str]
    conditions: tuple[Condition, ...]  # none: only the studies count


@dataclass(frozen=True, slots=True)
class CompiledRetention:
    name: str
    keep: float  # seconds
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """All routes and holds of a configuration, compiled."""

    routes: tuple[CompiledRoute, ...]  # the most urgent first, then by name
    holds: tuple[CompiledHold, ...]  # by name
    wanted: frozenset[str]  # the keywords that must be looked for in a header
    retention: tuple[CompiledRetention, ...] = ()  # the longest first
    copies: tuple[str, ...] = ()  # destinations that get a copy of all that has a route

    def assign(self, facts: InstanceHeader) -> tuple[Assignment, ...]:
        """List where the object goes, the most urgent first; empty if no route matches."""
        chosen: dict[str, Assignment] = {}
        for route in self.routes:
            if _all_hold(route.conditions, facts):
                for destination in route.to:
                    chosen.setdefault(destination, Assignment(destination, route.priority, route.name))
        for destination in self.copies if chosen else ():
            chosen.setdefault(destination, Assignment(destination, Priority.ROUTINE, ""))
        return tuple(chosen.values())

    def decide(self, facts: InstanceHeader) -> Decision:
        """Decide where the object goes, and how it relates to the images of its study."""
        assignments = self.assign(facts)
        has_image = not is_imageless(facts.sop_class_uid, facts.first("Modality"))
        if has_image or not facts.first("StudyInstanceUID"):
            return Decision(assignments)
        matched = [route for route in self.routes if _all_hold(route.conditions, facts)]
        named = any(route.names_kind or route.asks_title for route in matched)
        titled = {to for route in matched if route.asks_title for to in route.to}
        along = tuple(each for each in assignments if each.destination in titled)
        takes_along = along if facts.sop_class_uid == KEY_OBJECT else ()
        return Decision(assignments, Companion.NAMED if named else Companion.FOLLOWS, takes_along)

    @property
    def routes_without_companions(self) -> frozenset[str]:
        """The routes whose images are not followed by their study's companions: so configured, or for key objects."""
        return frozenset(route.name for route in self.routes if not route.companions or route.asks_title)

    def hold_reason(self, facts: InstanceHeader) -> str:
        """The hold that keeps the object from retention, such as `hold.trial-7`; empty if there is none."""
        by_rule = (hold for hold in self.holds if hold.conditions and _all_hold(hold.conditions, facts))
        by_study = (hold for hold in self.holds if facts.first("StudyInstanceUID") in hold.studies)
        # A rule's hold first: a study's can be found again later, a rule's cannot, for the header is read only once.
        hold = next(chain(by_rule, by_study), None)
        return HOLD_PREFIX + hold.name if hold else ""

    @property
    def asked_by_retention(self) -> frozenset[str]:
        """The keywords that the rules [retention.NAME] ask of a header."""
        asked = {condition.keyword for rule in self.retention for condition in rule.conditions}
        return frozenset(asked - FACTS.keys())

    def retention_rule(self, facts: InstanceHeader) -> str:
        """The rule [retention.NAME] that keeps the object, the longest of several; empty if there is none."""
        return next((each.name for each in self.retention if _all_hold(each.conditions, facts)), "")

    def explain(self, facts: InstanceHeader) -> list[Explanation]:
        """Explain for each route whether it matches, and each of its conditions with what was found."""
        return [_explain(route, facts) for route in self.routes]


def _all_hold(conditions: tuple[Condition, ...], facts: InstanceHeader) -> bool:
    return all(condition.holds(facts) for condition in conditions)


def _explain(route: CompiledRoute, facts: InstanceHeader) -> Explanation:
    findings = tuple(
        ConditionResult(each.keyword, each.matcher.text, each.look(facts), each.holds(facts))
        for each in route.conditions
    )
    matched = all(finding.ok for finding in findings)
    return Explanation(route.name, route.to, route.priority, matched, findings)


# -- compiling ---------------------------------------------------------------------------------------------------------


def compile_rules(config: Config) -> RoutingRules:
    """Compile the routes and holds of a configuration. Raises ConfigError with every condition that is wrong."""
    faults: dict[Key, str] = {}
    routes = [
        CompiledRoute(
            route.name,
            route.to,
            route.priority,
            _compile_when("route", route.name, route.when, faults),
            route.companions,
        )
        for route in sorted(config.routes.values(), key=lambda route: (route.priority, route.name))
    ]
    holds = [
        CompiledHold(hold.name, frozenset(hold.studies), _compile_when("hold", hold.name, hold.when, faults))
        for hold in sorted(config.holds.values(), key=lambda hold: hold.name)
    ]
    kept = [
        CompiledRetention(each.name, each.keep, _compile_when("retention", each.name, each.when, faults))
        for each in sorted(config.retention_rules.values(), key=lambda each: (-each.keep, each.name))
    ]
    if faults:
        raise ConfigError([fault_line(config.lines, key, text) for key, text in faults.items()])
    rules: list[CompiledRoute | CompiledHold | CompiledRetention] = [*routes, *holds, *kept]
    asked = {condition.keyword for rule in rules for condition in rule.conditions}
    if any(hold.studies for hold in holds):
        asked.add("StudyInstanceUID")
    copies = tuple(each.name for each in config.destinations.values() if each.keep_last is not None)
    return RoutingRules(tuple(routes), tuple(holds), frozenset(asked - FACTS.keys()), tuple(kept), copies)


def _compile_when(table: str, name: str, when: Mapping[str, Any], faults: dict[Key, str]) -> tuple[Condition, ...]:
    """Compile the conditions of a `when` table; faults are added to `faults` by their keys."""
    try:
        return read_parts(when.items(), compile_condition)
    except Unfit as unfit:
        faults.update(((table, name, "when", *key), text) for key, text in unfit.faults)
        return ()
