"""The configuration's rules for intake, as decisions about one object. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge.config.sections import Config
from edge.dicom.header import HeaderSearch
from edge.identity.checks import CheckResult, IdentityCheck
from edge.intake.routing import RoutingRules, compile_rules
from edge.model import EMPTY_REASON, Assignment, Priority, Reason, ReasonCode
from edge.model.dictionary import tag_for_keyword
from edge.store import patients
from edge.store.patients import Placement


@dataclass(frozen=True, slots=True)
class Policy:
    """What a configuration asks of intake; replaced as a whole on reload."""

    rules: RoutingRules
    header: HeaderSearch  # what is read of every header
    hold_conflicts: bool
    hold_mismatches: bool
    hold_stat: bool  # an urgent image is held for a mismatch, too
    routes_without_companions: frozenset[str]  # routes whose images are not followed by companions
    quarantine_most: float  # part of the disk
    hides_quality: bool = True  # what is rejected for its quality is not shown
    anonymous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # AE title -> destinations

    @classmethod
    def from_config(cls, config: Config) -> Policy:
        rules = compile_rules(config)
        tags = {tag_for_keyword(keyword): keyword for keyword in patients.KEYWORDS | rules.wanted}
        wanted = {tag: keyword for tag, keyword in tags.items() if tag is not None}
        inside = rules.wanted - patients.TOP_LEVEL_KEYWORDS
        search = HeaderSearch(wanted, frozenset(tag for tag, keyword in wanted.items() if keyword in inside))
        identity = config.identity
        hold_conflicts, hold_mismatches = config.listen.conflicts == "hold", identity.mismatch == "hold"
        hold_stat, most = identity.hold_stat, config.quarantine.most
        routes = rules.routes_without_companions
        hides, anonymous = config.iocm.quality == "hide", config.list_anonymous_callers()
        return cls(rules, search, hold_conflicts, hold_mismatches, hold_stat, routes, most, hides, anonymous)

    def waits_for(
        self,
        assignments: Sequence[Assignment],
        placed: Placement | None,
        check: IdentityCheck | None = None,
        *,
        is_conflict: bool,
    ) -> Reason:
        """Why an instance waits for a person; EMPTY_REASON where it goes. `check`: against its order."""
        if is_conflict and self.hold_conflicts:
            return Reason(ReasonCode.CONFLICT if assignments else ReasonCode.UNROUTABLE)
        is_stat = any(each.priority is Priority.STAT for each in assignments)
        if self.hold_mismatches and (self.hold_stat or not is_stat):
            if placed is not None and placed.is_mismatch:
                return mismatch(placed)
            if check is not None and check.result is CheckResult.DIFFERS:
                return order_mismatch(check)
        return EMPTY_REASON if assignments else Reason(ReasonCode.UNROUTABLE)


def mismatch(placed: Placement) -> Reason:
    """The fields in which the patient differs, without naming the patient."""
    return Reason(ReasonCode.MISMATCH, {"differs_in": list(placed.differs_in)})


def order_mismatch(check: IdentityCheck) -> Reason:
    """The fields in which the patient differs from the order's, without naming the patient."""
    return Reason(ReasonCode.MISMATCH, {"differs_in": list(check.differs_in), "against": "order"})
