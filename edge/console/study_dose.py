"""The dose that a study's reports state, for its page.

Each report is parsed once; a study with many or large reports is left to `edge studies dose`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from edge.dicom.dose import DOSE_LABELS, IrradiationEvent, read_events, sum_measures, unite_events

#: Reports of a study that its page reads, and bytes of each: a hundredth of a second.
MOST_REPORTS, MOST_PAGE_BYTES = 8, 1 << 20


@dataclass(frozen=True, slots=True)
class StudyDose:
    """What the reports of a study state together."""

    reports: int
    unread: int = 0  # of these, damaged, gone, or too large for a page
    events: int = 0
    sums: Mapping[str, tuple[float, str]] = field(default_factory=dict)  # "dose_length_product" -> (value, unit)

    @property
    def readings(self) -> list[tuple[str, float, str]]:
        """Label, value and unit of each sum, for people."""
        return [(label, *self.sums[name]) for name, label in DOSE_LABELS.items() if name in self.sums]


def read_study_dose(reports: Sequence[Path]) -> StudyDose:
    """Sum what these reports state, each irradiation event once."""
    if len(reports) > MOST_REPORTS:
        return StudyDose(len(reports), len(reports))
    events, unread = list[IrradiationEvent](), 0
    for each in reports:
        try:
            events += _read_report(each)
        except (OSError, ValueError):
            unread += 1
    once = unite_events(events)
    return StudyDose(len(reports), unread, len(once), sum_measures(once))


@lru_cache(maxsize=256)
def _read_report(path: Path) -> tuple[IrradiationEvent, ...]:
    """A spooled file never changes."""
    if path.stat().st_size > MOST_PAGE_BYTES:
        raise ValueError("the report is too large for a page")
    return tuple(read_events(path))
