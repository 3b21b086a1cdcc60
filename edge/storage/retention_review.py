"""A rule [retention.NAME] that is new or changed reaches back to what is here already.

One pass goes through what is stored, in the order of arrival, a part of the time; its place is in the catalog, so that
it goes on after a restart. The catalog's columns answer for most rules; where they do not, the file's header does. What
retention is about to evict is reviewed before that, wherever the pass has got to: so a new rule keeps, from its first
moment, everything that it names.

Limits: a file that cannot be read keeps the rule under which it came; the scrub reports it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

from edge.config.sections import Config
from edge.errors import Unreadable
from edge.intake import Intake
from edge.intake.routing import RoutingRules
from edge.model import InstanceHeader
from edge.store import kept_files, retention_rules
from edge.store.database import Store, Transaction
from edge.store.retention_rules import ReviewPlace, RuledInstance

log = logging.getLogger(__name__)

#: Instances of one step at most, and those of them whose file is opened.
REVIEW_BATCH, MOST_FILES = 2000, 100
#: Of each run: one in every five seconds, so a twentieth of a core.
WORK_SECONDS = 0.25


def digest_rules(config: Config) -> str:
    """The same for the same rules; empty where there are none."""
    rules = [(each.name, each.keep, each.when) for each in config.retention_rules.values()]
    text = json.dumps(sorted(rules, key=lambda each: each[0]), default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if rules else ""


def next_place(known: ReviewPlace | None, rules: str) -> ReviewPlace:
    """Where to go on: from the beginning where the rules are others than before."""
    return known if known is not None and known.rules == rules else ReviewPlace(rules, is_done=not rules)


def bound_files(found: Sequence[RuledInstance], most: int) -> Sequence[RuledInstance]:
    """The first of these, as far as the files of `most` must be opened."""
    opened = accumulate(each.header is None for each in found)
    return [each for each, files in zip(found, opened, strict=True) if files <= most]


class RetentionReview:
    """See the module's docstring. Steps of one thread; `review` from that of retention."""

    def __init__(
        self,
        db: Store,
        intake: Intake,
        config: Callable[[], Config],
    ) -> None:
        self._db, self._intake, self._config = db, intake, config

    def run(self) -> None:
        """Review for a while."""
        until = time.monotonic() + WORK_SECONDS
        while self.step() and time.monotonic() < until:
            pass

    def step(self) -> bool:
        """Review the next instances; False when there is nothing to do."""
        place = self._read_place()
        if place.is_done:
            return False
        rules = self._intake.policy.rules
        with self._db.reading() as conn:
            newest = kept_files.newest(conn)
            found = retention_rules.list_ruled(conn, rules.asked_by_retention, place.after, REVIEW_BATCH)
        few = bound_files(found, MOST_FILES)
        changes = self._find_changes(few, rules)
        after = few[-1].instance_id if few else newest
        made = replace(
            place, after=after, changed=place.changed + len(changes), last=max(newest, after), is_done=not few
        )
        self._db.write(lambda conn: _enter(conn, changes, made))
        if made.is_done:
            log.info("rules of retention: what is here was reviewed, %d images have another rule", made.changed)
        return not made.is_done

    def review(self, instances: Iterable[int]) -> bool:
        """Review some instances now, where the pass is still open. Returns whether one has another rule."""
        place, rules = self._read_place(), self._intake.policy.rules
        wanted = [each for each in instances if each > place.after]
        if place.is_done or not wanted:
            return False
        with self._db.reading() as conn:
            found = retention_rules.list_ruled_among(conn, rules.asked_by_retention, wanted)
        if changes := self._find_changes(found, rules):
            self._db.write(lambda conn: retention_rules.set_rules(conn, changes))
        return bool(changes)

    def _read_place(self) -> ReviewPlace:
        with self._db.reading() as conn:
            return next_place(retention_rules.read_review_place(conn), digest_rules(self._config()))

    def _find_changes(self, found: Sequence[RuledInstance], rules: RoutingRules) -> dict[int, str]:
        """Instance -> its rule of now, where that is another."""
        changes = {}
        for each in found:
            header = each.header or self._read_file(each.path)
            if header is not None and (rule := rules.retention_rule(header)) != each.rule:
                changes[each.instance_id] = rule
        return changes

    def _read_file(self, path: str) -> InstanceHeader | None:
        try:
            return self._intake.facts_of(path)
        except (Unreadable, OSError):
            return None


def _enter(conn: Transaction, changes: dict[int, str], place: ReviewPlace) -> None:
    retention_rules.set_rules(conn, changes)
    retention_rules.keep_review_place(conn, place)
