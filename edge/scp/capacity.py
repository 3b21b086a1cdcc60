"""Limits on simultaneous DICOM associations: all, each caller, each modality (edge.network.shares has the numbers).

The last places are kept: half of them for callers that have no association, the other half for modalities that have
none. Where a caller wants a place that another one has far too many of, an association of the latter that is idle ends
for it. Thread-safe.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from edge.network import shares
from edge.network.shares import Full, Places, caller_of


@dataclass(frozen=True, slots=True)
class Equipment:
    """The [modality.NAME] that a caller says it is, before it has proved that."""

    name: str = ""  # empty: none
    most: int | None = None  # associations at once


#: Says which equipment calls, by AE title and address.
Identify = Callable[[str, str], Equipment]
#: Ends one idle association of a caller (shares.caller_of), of a modality (empty: any); False: none is idle.
EndIdle = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class AssociationPlace:
    """A place for one more association of a caller."""

    caller: str  # edge.network.shares.caller_of
    modality: str  # empty: none


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit for which a caller gets no place."""

    full: Full
    why: str


class Associations:
    """Counts what is open."""

    def __init__(
        self,
        identify: Identify = lambda title, address: Equipment(),
        end_idle: EndIdle = lambda caller, modality: False,
    ) -> None:
        self._identify, self._end_idle = identify, end_idle
        self._places = Places(shares.ASSOCIATIONS)
        self._modalities: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Associations that are open."""
        return self._places.total

    def take(self, title: str, address: str) -> AssociationPlace | Limit:
        """Take a place for a caller with this AE title, or say which limit is met."""
        caller, equipment = caller_of(address), self._identify(title, address)
        name = equipment.name
        with self._lock:
            theirs = self._modalities[name] if name else 0
        if equipment.most is not None and theirs >= equipment.most and not self._end_idle("", name):
            return Limit(Full.EACH, f"{equipment.most} associations are open, the most of [modality.{name}]")
        kept = 0.0 if name and not theirs else 1.0 if self._places.count_of(caller) else 0.5
        full = self._places.take(caller, kept=kept)
        if full is not None and not self._make_place(caller, full):
            return self._limit(caller, full)
        with self._lock:
            self._modalities[name] += bool(name)
        return AssociationPlace(caller, name)

    def _make_place(self, caller: str, full: Full) -> bool:
        """Take the place of an association that ends now, of the caller that has far too many."""
        greedy = caller if full is Full.EACH else self._places.caller_with_more(caller)
        if not greedy or not self._end_idle(greedy, ""):
            return False
        self._places.add(caller)
        return True

    def _limit(self, caller: str, full: Full) -> Limit:
        if full is Full.EACH:
            return Limit(full, f"{self._places.count_of(caller)} associations from this address are open, the most")
        return Limit(full, f"{self._places.total} associations are open, the most")

    def give_back(self, place: AssociationPlace) -> None:
        """Give back the place of an association that has ended."""
        self._places.give_back(place.caller)
        with self._lock:
            self._modalities[place.modality] -= bool(place.modality)
            self._modalities += Counter()  # without those that have none left
