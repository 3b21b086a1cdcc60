"""The dry run of corrections: what the copies of last week's images would have otherwise than the originals."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.config.sections import Config
from edge.dicom.part10 import MAX_META, parse_meta
from edge.errors import Unreadable
from edge.model import InstanceHeader
from edge.spool import Spool
from edge.store.database import Store
from edge.store.queries import Instance
from edge.store.todays_facts import read_today
from edge.transform.corrections import NO_FACTS, TodayFacts
from edge.transform.demographics import facts_from
from edge.transform.preview import ChangedAttribute, CopyPreview, PreviewSteps, preview_copy, preview_steps

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
    _steps: dict[str, PreviewSteps] = field(default_factory=dict)  # by destination

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
        wanted = [self._steps_of(name) for name in destinations if name in self.config.destinations]
        facts = self._facts(instance)
        needed = [each for each in wanted if each.corrections.rules or each.project is not None or facts != NO_FACTS]
        if not needed:
            return ()
        try:
            return _preview_file(
                self.spool.path_of(instance.path), header, [replace(each, facts=facts) for each in needed]
            )
        except (OSError, Unreadable):
            return ()

    def _facts(self, instance: Instance) -> TodayFacts:
        if not self.config.feeds:
            return NO_FACTS
        with self.db.reading() as conn:
            return facts_from(read_today(conn, instance.id))

    def _steps_of(self, name: str) -> PreviewSteps:
        if (found := self._steps.get(name)) is None:
            found = preview_steps(self.config, self.config.destinations[name], lambda _: time.time(), NO_FACTS)
            self._steps[name] = found
        return found


def _preview_file(path: Path, header: InstanceHeader, steps: Sequence[PreviewSteps]) -> list[CopyPreview]:
    with path.open("rb") as file:
        fd = file.fileno()
        offset = parse_meta(os.pread(fd, MAX_META, 0)).dataset_offset
        length = os.fstat(fd).st_size - offset
        return [preview_copy(fd, offset, length, header, each) for each in steps]
