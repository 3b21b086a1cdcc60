"""The dry run of corrections: what the copies of last week's images would have otherwise than the originals."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge.config.sections import Config, Destination
from edge.dicom.part10 import MAX_META, parse_meta
from edge.errors import Unreadable
from edge.model import InstanceHeader
from edge.spool import Spool
from edge.store.database import Store
from edge.store.queries import Instance
from edge.store.todays_facts import read_today
from edge.transform.confidentiality import Deidentification
from edge.transform.corrections import NO_FACTS, CorrectionRules, TodayFacts, modifying_system, rules_for
from edge.transform.demographics import facts_from
from edge.transform.masking import compile_masks
from edge.transform.preview import ChangedAttribute, CopyPreview, PreviewSteps, preview_copy, preview_project

_MOST_EXAMPLES = 12


@dataclass(slots=True)
class CopyChange:
    """Images whose copies for one destination are changed by the same rules, or held for the same reason."""

    destination: str
    rules: tuple[str, ...]
    fault: str
    images: int = 0
    series: int = 0
    example: tuple[ChangedAttribute, ...] = ()
    study: int | None = None


@dataclass(slots=True)
class CopyDryRun:
    """Counts of changed copies under one configuration."""

    db: Store
    spool: Spool
    config: Config
    changes: dict[tuple[str, tuple[str, ...], str], CopyChange] = field(default_factory=dict)
    _rules: dict[str, CorrectionRules] = field(default_factory=dict)
    _projects: dict[str, Deidentification | None] = field(default_factory=dict)

    def add(
        self, instance: Instance, header: InstanceHeader, destinations: Sequence[str], images: int, study: int
    ) -> None:
        """Preview the copies of one image, which stands for `images`."""
        for preview in self._previews(instance, header, destinations):
            if not (preview.rules or preview.fault):
                continue
            key = preview.destination, preview.rules, preview.fault
            change = self.changes.setdefault(key, CopyChange(*key))
            change.images += images
            change.series += 1
            if not change.example:
                change.example, change.study = preview.changes[:_MOST_EXAMPLES], study

    def list_changes(self) -> list[CopyChange]:
        """The most frequent first."""
        return sorted(self.changes.values(), key=lambda change: -change.images)

    def _previews(
        self, instance: Instance, header: InstanceHeader, destinations: Sequence[str]
    ) -> Sequence[CopyPreview]:
        wanted = [self.config.destinations[name] for name in destinations if name in self.config.destinations]
        facts = self._facts(instance)
        needed = [
            each for each in wanted if self._rules_of(each).rules or each.deidentify != "none" or facts != NO_FACTS
        ]
        if not needed:
            return ()
        try:
            return _preview_file(
                self.spool.path_of(instance.path), header, [self._steps(each, facts) for each in needed]
            )
        except (OSError, Unreadable):
            return ()

    def _facts(self, instance: Instance) -> TodayFacts:
        if not self.config.feeds:
            return NO_FACTS
        with self.db.reading() as conn:
            return facts_from(read_today(conn, instance.id))

    def _rules_of(self, destination: Destination) -> CorrectionRules:
        if (found := self._rules.get(destination.name)) is None:
            found = rules_for(self.config.coercions, destination.name, lambda _: time.time())
            self._rules[destination.name] = found
        return found

    def _steps(self, destination: Destination, facts: TodayFacts) -> PreviewSteps:
        name = destination.name
        if name not in self._projects:
            self._projects[name] = preview_project(destination)
        system, masks = modifying_system(self.config.site.id), compile_masks(self.config.masks, name)
        return PreviewSteps(name, self._rules_of(destination), facts, system, self._projects[name], masks)


def _preview_file(path: Path, header: InstanceHeader, steps: Sequence[PreviewSteps]) -> list[CopyPreview]:
    with path.open("rb") as file:
        fd = file.fileno()
        offset = parse_meta(os.pread(fd, MAX_META, 0)).dataset_offset
        length = os.fstat(fd).st_size - offset
        return [preview_copy(fd, offset, length, header, each) for each in steps]
