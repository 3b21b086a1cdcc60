"""A dry run: what other routes would have done with last week's traffic. Nothing is changed, nothing is sent.

The routes in force and the ones that are tried are asked about the same objects. One object stands for its series
(within a series from one sender, headers differ little; what may differ by image, as InstanceNumber, is judged by
the first): so a week is read in seconds. Limits: MOST_SERIES and MOST_SECONDS, the latest first, and it is said when
one was reached; an object whose file retention has taken is judged by what the catalog kept, where that is enough.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge import config as configuration
from edge.config.files import parse
from edge.config.sections import Config, Destination
from edge.console import instance_header
from edge.console.access import Access
from edge.errors import ConfigError, EdgeError, Unreadable
from edge.model import Assignment, ContextKey, InstanceHeader, Origin, Values
from edge.routing.rules import Companion, Rules, compile_rules
from edge.store import queries
from edge.store.database import Connection
from edge.store.queries import Instance
from edge.web.guard import visitor_of
from edge.web.pages import Pages

WEEK_SECONDS = 7 * 86400.0
MOST_SERIES = 5000
MOST_SECONDS = 15.0
MAX_TEXT = 64 * 1024
#: Where something went, and would have gone.
Way = tuple[tuple[str, ...], tuple[str, ...]]
NOWHERE = "no route (held)"


@dataclass(slots=True)
class Change:
    """Objects that would have gone elsewhere, in the same way."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    images: int = 0
    series: int = 0
    senders: set[str] = field(default_factory=set)
    modalities: set[str] = field(default_factory=set)
    example: int | None = None  # a study
    rules: str = ""  # of the example: which routes match now


@dataclass(slots=True)
class Outcome:
    """What the dry run has found."""

    images: int = 0
    series: int = 0
    same: int = 0  # images
    unknown: int = 0  # images whose file is gone, and of which the catalog kept too little
    complete: bool = True
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sample:
    """One object that stands for its series."""

    instance: Instance
    images: int
    study_id: int
    known: Mapping[str, str]  # what the catalog kept, by keyword


class Rehearsal:
    def __init__(self, access: Access, pages: Pages) -> None:
        self._access, self._pages = access, pages
        self._turn = threading.Lock()

    def page(self, request: Request) -> Response:
        """GET /rehearsal shows the routes in force; POST tries others."""
        config = self._access.config()
        text = as_toml(config)
        if request.method != "POST":
            return self._show(request, text)
        text = (visitor_of(request).form.get("text") or [""])[0][:MAX_TEXT].replace("\r\n", "\n")
        if not self._turn.acquire(blocking=False):
            raise EdgeError("Another dry run is under way; try again in a moment.")
        try:
            candidate = candidate_of(config, text)
            return self._show(request, text, outcome=self._try(compile_rules(config), compile_rules(candidate)))
        except ConfigError as error:
            return self._show(request, text, problems=error.problems, status=422)
        finally:
            self._turn.release()

    def _show(self, request: Request, text: str, *, status: int = 200, **more: Any) -> Response:
        given = {"outcome": None, "problems": [], **more}
        return self._pages.render(request, "rehearsal.html", code=status, text=text, **given)

    def _try(self, before: Rules, after: Rules) -> Outcome:
        deadline = time.monotonic() + MOST_SECONDS
        with self._access.db.reading() as conn:
            samples = list(_samples(conn, time.time() - WEEK_SECONDS))
        wanted = before.wanted | after.wanted
        outcome = Outcome(complete=len(samples) < MOST_SERIES)
        changes: dict[Way, Change] = {}
        known: list[tuple[Sample, InstanceHeader | None]] = []
        for sample in samples:
            if time.monotonic() > deadline:
                outcome.complete = False
                break
            time.sleep(0.0005)  # scanners come first
            known.append((sample, self._facts(sample, wanted)))
        was, will = Routed(before, known), Routed(after, known)
        for sample, facts in known:
            _compare(sample, facts, was, will, outcome, changes)
        outcome.changes = sorted(changes.values(), key=lambda change: -change.images)
        return outcome

    def _facts(self, sample: Sample, wanted: frozenset[str]) -> InstanceHeader | None:
        try:
            return instance_header.facts(self._access.spool, sample.instance, wanted)
        except Unreadable:
            if wanted - sample.known.keys():
                return None
        each = sample.instance
        kind, origin = (
            ContextKey(each.sop_class_uid, each.transfer_syntax_uid),
            Origin(each.calling_ae, each.called_ae, each.address, each.received_at),
        )
        attributes: dict[str, Values] = {keyword: (value,) if value else () for keyword, value in sample.known.items()}
        return InstanceHeader(kind.sop_class_uid, each.sop_instance_uid, kind.transfer_syntax_uid, origin, attributes)


class Routed:
    """Where rules send a week's objects; companions go where the images of their study go."""

    def __init__(self, rules: Rules, known: Sequence[tuple[Sample, InstanceHeader | None]]) -> None:
        self.rules = rules
        self._led: dict[int, dict[str, Assignment]] = {}
        for sample, facts in known:
            decision = rules.decide(facts) if facts is not None else None
            if decision is not None and decision.companion is Companion.IMAGE:
                led = self._led.setdefault(sample.study_id, {})
                for each in decision.assignments:
                    if each.route not in rules.lead_none:
                        led.setdefault(each.destination, each)

    def where(self, sample: Sample, facts: InstanceHeader) -> tuple[str, ...]:
        decision = self.rules.decide(facts)
        found = {each.destination: each for each in decision.assignments}
        if decision.companion is Companion.FOLLOWS:
            found = self._led.get(sample.study_id, {}) | found
        names = sorted(f"{each.destination} ({each.priority.name.lower()})" for each in found.values())
        return tuple(names) or (NOWHERE,)


def _compare(
    sample: Sample,
    facts: InstanceHeader | None,
    before: Routed,
    after: Routed,
    outcome: Outcome,
    changes: dict[Way, Change],
) -> None:
    """Count one sample's images: as before, unknown, or gone elsewhere."""
    outcome.images += sample.images
    outcome.series += 1
    if facts is None:
        outcome.unknown += sample.images
        return
    was, will = before.where(sample, facts), after.where(sample, facts)
    if was == will:
        outcome.same += sample.images
        return
    change = changes.setdefault((was, will), Change(was, will, example=sample.study_id))
    change.images += sample.images
    change.series += 1
    change.senders.add(sample.instance.calling_ae)
    change.modalities.add(sample.known.get("Modality") or "?")
    change.rules = ", ".join(each.route for each in after.rules.explain(facts) if each.matched) or "none"


def _samples(conn: Connection, since: float) -> Iterator[Sample]:
    """One object of each series and sender since then, the latest first."""
    for instance, images, study_id, known in queries.series_since(conn, since, MOST_SERIES):
        yield Sample(instance, images, study_id, known)


# -- the routes as text ------------------------------------------------------------------------------------------------


def candidate_of(config: Config, text: str) -> Config:
    """The configuration in force with the routes (and destinations) of a text. Raises ConfigError with its faults."""
    given = parse(text)
    with tempfile.TemporaryDirectory(prefix="edge-rehearsal-") as name:
        folder = Path(name)
        (folder / "candidate.toml").write_text(text)
        (folder / "known.toml").write_text(_stubs(config, given))
        found = configuration.load(folder)
    return replace(config, routes=found.routes, destinations=config.destinations | found.destinations)


def _stubs(config: Config, given: Mapping[str, Any]) -> str:
    """What a whole configuration needs besides the text: only what the text does not say itself."""
    lines = [] if "site" in given else ["[site]", f"id = {toml_of(config.site.id)}", 'data_dir = "data"']
    there = given.get("destination", {})
    for each in config.destinations.values():
        if each.name not in there:
            lines += _destination(each)
    return "\n".join(lines) + "\n"


def _destination(each: Destination) -> list[str]:
    head = f"[destination.{toml_of(each.name)}]"
    return [head, *(f"{key} = {toml_of(getattr(each, key))}" for key in ("ae_title", "host", "port"))]


def as_toml(config: Config) -> str:
    """The routes in force, as they could stand in a file."""
    parts = []
    for route in config.routes.values():
        lines = [f"[route.{route.name}]" if "." not in route.name else f"[route.{toml_of(route.name)}]"]
        if route.when:
            lines.append(f"when = {toml_of(route.when)}")
        lines.append(f"to = {toml_of(list(route.to))}")
        if route.priority.name != "ROUTINE":
            lines.append(f"priority = {toml_of(route.priority.name.lower())}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def toml_of(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_of, value))}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_of(each)}" for key, each in value.items()) + " }"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
