"""Recent placements of objects, so that the next slice costs no look-up."""

from __future__ import annotations

from edge.model import InstanceHeader, Values
from edge.store import patients
from edge.store.identity import Standing
from edge.store.patients import Placement

#: What an object says of its study, in values: two that say the same are placed alike.
Saying = tuple[Values | None, ...]


class Memory:
    """Where objects were placed that agreed: the next one that says the same need not be looked up. Thread-safe.

    Only what is committed may be noted: its rows never change. Where its study was folded since, the catalog sees that.
    """

    MOST = 4096
    _SAID = ("StudyInstanceUID", *patients.PATIENT_COLUMNS, *patients.STUDY_COLUMNS, *patients.SERIES_COLUMNS)

    def __init__(self) -> None:
        self._known: dict[Saying, Placement] = {}

    def find(self, said: Saying) -> Placement | None:
        return self._known.get(said)

    def note(self, said: Saying, placed: Placement | None) -> None:
        if placed is not None and placed.standing is Standing.AGREES:
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[said] = placed

    @classmethod
    def said_by(cls, facts: InstanceHeader) -> Saying:
        return tuple(map(facts.attributes.get, cls._SAID))
