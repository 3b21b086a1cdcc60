"""Facts that a message brings: identifiers, demographics, merges, orders. Values; where they go is edge.store.

A text is None where the message does not say it (what is known stays), and empty where it deletes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.identity.order import OrderStatus, OrderTexts
from edge.model import Priority


@dataclass(frozen=True, slots=True)
class Authority:
    """Who assigns numbers (CX-4, HD). Two are the same where the namespace or the universal ID is."""

    namespace: str = ""
    universal_id: str = ""
    universal_type: str = ""

    @classmethod
    def parse(cls, text: str) -> Authority:
        """Parse `namespace&universal id&type`, as [feed.*] authority has it."""
        return cls(*(each.strip() for each in [*text.split("&"), "", ""][:3]))

    @property
    def is_named(self) -> bool:
        return bool(self.namespace or self.universal_id)

    def is_same(self, other: Authority) -> bool:
        if not self.is_named or not other.is_named:
            return self.is_named == other.is_named
        same_name = bool(self.namespace) and self.namespace == other.namespace
        return same_name or (bool(self.universal_id) and self.universal_id == other.universal_id)


@dataclass(frozen=True, slots=True)
class Identifier:
    """A patient's number with who assigned it (CX)."""

    number: str
    authority: Authority = Authority()
    type: str = ""
    valid_until: str = ""  # YYYYMMDD; empty: no end is known

    def is_same(self, other: Identifier) -> bool:
        return self.number == other.number and self.authority.is_same(other.authority)


@dataclass(frozen=True, slots=True)
class PatientFacts:
    """What PID says. `is_in_doubt`: of the name; its character set is not known. `notes`: codes."""

    name: str | None = None  # as VR PN
    birth_date: str | None = None
    sex: str | None = None
    is_in_doubt: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MergePair:
    """PID and MRG of one pair: `old` is replaced by `new`."""

    new: tuple[Identifier, ...]
    old: tuple[Identifier, ...]
    facts: PatientFacts = PatientFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFacts(OrderTexts):
    """What one group of ORC, OBR and its neighbours says."""

    control: str  # ORC-1
    status: OrderStatus | None = None  # that the message sets; None: it says none
    priority: Priority | None = None
    is_in_doubt: bool = False

    @property
    def has_number(self) -> bool:
        numbers = (self.accession, self.placer_number, self.filler_number)
        return any((*numbers, self.study_uid, self.procedure_id, self.step_id))
