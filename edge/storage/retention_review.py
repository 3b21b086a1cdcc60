"""A rule [retention.NAME] that is new or changed reaches back to what is here already.

One pass goes through what is stored, in the order of arrival, a few headers at a time; its place is in the catalog, so
that it goes on after a restart. What retention is about to evict is reviewed before that, wherever the pass has got to:
so a new rule keeps, from its first moment, everything that it names.

Limits: a file that cannot be read keeps the rule under which it came; the scrub reports it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from edge.config.sections import Config
from edge.errors import Unreadable
from edge.intake import Intake
from edge.store import gateway_values, retention_rules
from edge.store.database import Store, Transaction
from edge.store.retention_rules import RuledInstance

log = logging.getLogger(__name__)

#: Headers that are read in one step.
REVIEW_BATCH = 100
_PLACE = "retention_review"


@dataclass(frozen=True, slots=True)
class ReviewPlace:
    """How far the pass has got, and by which rules."""

    rules: str  # what they are, as a digest
    after: int = 0  # the last instance that was reviewed
    changed: int = 0  # how many have another rule now
    is_done: bool = False


def digest_rules(config: Config) -> str:
    """The same for the same rules; empty where there are none."""
    rules = [(each.name, each.keep, each.when) for each in config.retention_rules.values()]
    text = json.dumps(sorted(rules, key=lambda each: each[0]), default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if rules else ""


def next_place(known: ReviewPlace | None, rules: str) -> ReviewPlace:
    """Where to go on: from the beginning where the rules are others than before."""
    return known if known is not None and known.rules == rules else ReviewPlace(rules, is_done=not rules)


class RetentionReview:
    """See the module's docstring. Steps of one thread; `review` from that of retention."""

    def __init__(self, db: Store, intake: Intake, config: Callable[[], Config]) -> None:
        self._db, self._intake, self._config = db, intake, config

    def step(self) -> bool:
        """Review the next few instances; False when there is nothing to do."""
        place = self._read_place()
        if place.is_done:
            return False
        with self._db.reading() as conn:
            found = retention_rules.list_ruled(conn, place.after, REVIEW_BATCH)
        changes = self._find_changes(found)
        last = found[-1].instance_id if found else place.after
        made = ReviewPlace(place.rules, last, place.changed + len(changes), is_done=not found)
        self._db.write(lambda conn: _enter(conn, changes, made))
        if made.is_done:
            log.info("rules of retention: what is here was reviewed, %d images have another rule", made.changed)
        return not made.is_done

    def review(self, instances: Iterable[int]) -> bool:
        """Review some instances now, where the pass is still open. Returns whether one has another rule."""
        place = self._read_place()
        wanted = [each for each in instances if each > place.after]
        if place.is_done or not wanted:
            return False
        with self._db.reading() as conn:
            found = retention_rules.list_ruled_among(conn, wanted)
        if changes := self._find_changes(found):
            self._db.write(lambda conn: retention_rules.set_rules(conn, changes))
        return bool(changes)

    def _read_place(self) -> ReviewPlace:
        with self._db.reading() as conn:
            text = gateway_values.recall(conn, _PLACE)
        return next_place(ReviewPlace(**json.loads(text)) if text else None, digest_rules(self._config()))

    def _find_changes(self, found: Sequence[RuledInstance]) -> dict[int, str]:
        """Instance -> its rule of now, where that is another."""
        rules, changes = self._intake.policy.rules, {}
        for each in found:
            try:
                rule = rules.retention_rule(self._intake.facts_of(each.path))
            except (Unreadable, OSError):
                continue
            if rule != each.rule:
                changes[each.instance_id] = rule
        return changes


def _enter(conn: Transaction, changes: dict[int, str], place: ReviewPlace) -> None:
    retention_rules.set_rules(conn, changes)
    gateway_values.remember(conn, _PLACE, json.dumps(asdict(place)))
