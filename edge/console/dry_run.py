"""A dry run: where other routes would have sent last week's images. Nothing is changed, nothing is sent.

The active and the edited routes decide about the same instances. One instance represents its series from one sender,
so that a week takes seconds to read; attributes that differ within a series, such as InstanceNumber, count as in that
instance. Limits: `MOST_SERIES` and `MOST_SECONDS`, the latest first; the page reports when one was reached. Where
retention has deleted the file, the attributes in the catalog decide, if they suffice.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge import config as configuration
from edge.config.edit import toml_of
from edge.config.files import parse_toml
from edge.config.sections import Config
from edge.console.access import ConsolePage, read_reason
from edge.console.dry_run_copies import CopyChange, CopyDryRun
from edge.console.instance_header import describe_instance, read_spooled
from edge.errors import ConfigError, EdgeError, Unreadable
from edge.intake.routing import RoutingRules, compile_rules
from edge.model import Assignment, Companion, InstanceHeader
from edge.store import queries
from edge.store.queries import Instance
from edge.web.guard import visitor_of

WEEK_SECONDS = 7 * 86400.0
MOST_SERIES = 5000
MOST_SECONDS = 15.0


def _text_of(request: Request) -> str:
    return visitor_of(request).raw_field("text").replace("\r\n", "\n")


@dataclass(slots=True)
class RoutingChange:
    """Images that would have been sent elsewhere, in the same way."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    images: int = 0
    series: int = 0
    senders: set[str] = field(default_factory=set)
    modalities: set[str] = field(default_factory=set)
    example: int | None = None  # a study
    rules: str = ""  # of the example: the edited routes that match


@dataclass(slots=True)
class DryRunOutcome:
    """The result of a dry run."""

    images: int = 0
    series: int = 0
    same: int = 0  # images
    unknown: int = 0  # images whose file is gone, and of which the catalog has too few attributes
    complete: bool = True
    changes: list[RoutingChange] = field(default_factory=list)
    copies: list[CopyChange] = field(default_factory=list)  # by corrections and de-identification


@dataclass(slots=True)
class Sample:
    """One instance that represents its series."""

    instance: Instance
    images: int
    study_id: int
    known: Mapping[str, str]  # the attributes in the catalog, by keyword
    header: InstanceHeader | None = None  # None: the file is gone, and the catalog has too few attributes


class DryRun(ConsolePage):
    _one_at_a_time = threading.Lock()

    def page(self, request: Request) -> Response:
        """GET /dry-run shows the active routes; POST tests edited ones."""
        config = self._access.config()
        if request.method != "POST":
            return self._show(request, as_toml(config))
        text = _text_of(request)
        if not self._one_at_a_time.acquire(blocking=False):
            raise EdgeError("Another dry run is in progress; try again in a moment.")
        try:
            candidate = candidate_of(config, text)
            outcome = self._compare(compile_rules(config), candidate)
            examples = {each.study for each in outcome.copies if each.study is not None}
            self._access.views.record(visitor_of(request), "a dry run", studies=sorted(examples))
            return self._show(request, text, outcome=outcome)
        except ConfigError as error:
            return self._show(request, text, problems=error.problems, code=422)
        finally:
            self._one_at_a_time.release()

    def apply(self, request: Request) -> Response:
        """POST /dry-run/apply: write the routes of the text into the files, and use them."""
        visitor, text = visitor_of(request), _text_of(request)
        fields = {"text": text, "who": visitor.name, "reason": read_reason(visitor)}
        try:
            self._access.command("configuration-routes-set", fields)
        except ConfigError as error:
            return self._show(request, text, problems=error.problems, code=422)
        except EdgeError as error:
            return self._show(request, text, fault=str(error), code=422)
        visitor.leave_notice("The routes are written into the files, and in use. The history has the way back.")
        return RedirectResponse("/configuration/history", 303)

    def _difference(self, text: str) -> tuple[list[str], str]:
        """The lines that applying a text would change; or why it cannot be applied."""
        if self._access.configuring is None:
            return [], ""
        try:
            return self._access.configuring.preview("routes-set", {"text": text}), ""
        except EdgeError as error:
            return [], str(error)

    def _show(self, request: Request, text: str, **more: Any) -> Response:
        lines, unfit = self._difference(text) if more.get("outcome") else ([], "")
        general = {"outcome": None, "problems": [], "lines": lines, "unfit": unfit}
        return self._pages.render(request, "dry-run.html", text=text, **{**general, **more})

    def _compare(self, before: RoutingRules, candidate: Config) -> DryRunOutcome:
        after = compile_rules(candidate)
        deadline = time.monotonic() + MOST_SECONDS
        with self._access.db.reading() as conn:
            found = queries.series_since(conn, time.time() - WEEK_SECONDS, MOST_SERIES)
            samples = [Sample(*each) for each in found]
        wanted = before.wanted | after.wanted
        complete = len(samples) < MOST_SERIES
        for count, sample in enumerate(samples):
            if time.monotonic() > deadline:
                samples, complete = samples[:count], False
                break
            time.sleep(0.0005)  # receiving has priority
            sample.header = self._header(sample, wanted)
        copies = self._preview_copies(samples, after, candidate, deadline + MOST_SECONDS)
        return replace(compare_routes(samples, before, after), complete=complete, copies=copies)

    def _preview_copies(
        self, samples: Sequence[Sample], rules: RoutingRules, candidate: Config, deadline: float
    ) -> list[CopyChange]:
        """What the copies would have otherwise, under the edited configuration."""
        found = CopyDryRun(self._access.db, self._access.spool, candidate)
        for sample in samples:
            if sample.header is not None and time.monotonic() < deadline:
                to = [each.destination for each in rules.assign(sample.header)]
                found.add(sample.instance, sample.header, to, sample.images, sample.study_id)
        return found.list_changes()

    def _header(self, sample: Sample, wanted: frozenset[str]) -> InstanceHeader | None:
        try:
            attributes = read_spooled(self._access.spool, sample.instance, wanted)
        except Unreadable:
            if wanted - sample.known.keys():
                return None
            attributes = {keyword: (value,) if value else () for keyword, value in sample.known.items()}
        return describe_instance(sample.instance, attributes)


class RoutedWeek:
    """Where routes send a week's images. Instances without an image of their own follow the images of their study."""

    def __init__(self, rules: RoutingRules, samples: Sequence[Sample]) -> None:
        self.rules = rules
        self._of_images: dict[int, dict[str, Assignment]] = {}
        for sample in samples:
            decision = rules.decide(sample.header) if sample.header is not None else None
            if decision is not None and decision.companion is Companion.IMAGE:
                followed = self._of_images.setdefault(sample.study_id, {})
                for each in decision.assignments:
                    if each.route not in rules.routes_without_companions:
                        followed.setdefault(each.destination, each)

    def list_destinations(self, sample: Sample, header: InstanceHeader) -> tuple[str, ...]:
        """List the destinations of a sample, each with its priority."""
        decision = self.rules.decide(header)
        found = {each.destination: each for each in decision.assignments}
        if decision.companion is Companion.FOLLOWS:
            found = self._of_images.get(sample.study_id, {}) | found
        names = sorted(f"{each.destination} ({each.priority.name.lower()})" for each in found.values())
        return tuple(names) or ("no route (held)",)


def compare_routes(samples: Sequence[Sample], before: RoutingRules, after: RoutingRules) -> DryRunOutcome:
    """Count the images that both sets of routes send to the same destinations, and those that they do not."""
    outcome = DryRunOutcome()
    was, will = RoutedWeek(before, samples), RoutedWeek(after, samples)
    changes: dict[tuple[tuple[str, ...], tuple[str, ...]], RoutingChange] = {}
    for sample in samples:
        header = sample.header
        outcome.images += sample.images
        outcome.series += 1
        if header is None:
            outcome.unknown += sample.images
            continue
        pair = was.list_destinations(sample, header), will.list_destinations(sample, header)
        if pair[0] == pair[1]:
            outcome.same += sample.images
            continue
        change = changes.setdefault(pair, RoutingChange(*pair, example=sample.study_id))
        change.images += sample.images
        change.series += 1
        change.senders.add(sample.instance.calling_ae)
        change.modalities.add(sample.known.get("Modality") or "?")
        change.rules = ", ".join(each.route for each in after.explain(header) if each.matched) or "none"
    outcome.changes = sorted(changes.values(), key=lambda change: -change.images)
    return outcome


# -- the routes as text ------------------------------------------------------------------------------------------------


def candidate_of(config: Config, text: str) -> Config:
    """Return the running configuration with the routes (and destinations) of a text. Raises ConfigError.

    A destination that the text only names is the running one.
    """
    given = parse_toml(text)
    with tempfile.TemporaryDirectory(prefix="edge-dry-run-") as name:
        folder = Path(name)
        (folder / "candidate.toml").write_text(text)
        (folder / "known.toml").write_text(_missing_tables(config, given))
        found = configuration.load_config(folder)
    coercions = found.coercions if "coerce" in given else config.coercions
    edited = {name: found.destinations[name] for name in _names_in(given)}
    return replace(config, routes=found.routes, destinations=config.destinations | edited, coercions=coercions)


def _names_in(given: Mapping[str, Any]) -> set[str]:
    """Return the names of the destinations of a text."""
    found = given.get("destination")
    return set(found) if isinstance(found, dict) else set()


def _missing_tables(config: Config, given: Mapping[str, Any]) -> str:
    """Return what a complete configuration needs besides a text: [site], and the destinations that are not in it."""
    lines = [] if "site" in given else ["[site]", f"id = {toml_of(config.site.id)}", 'data_dir = "data"']
    for name in sorted(config.destinations.keys() - _names_in(given)):
        each = config.destinations[name]
        lines.append(f"[destination.{toml_of(name)}]")
        where = ("kind", "url") if each.is_web else ("ae_title", "host", "port")
        lines += [f"{key} = {toml_of(getattr(each, key))}" for key in where]
    return "\n".join(lines) + "\n"


def as_toml(config: Config) -> str:
    """Return the active routes as a configuration file has them."""
    parts: list[str] = []
    for route in config.routes.values():
        lines = [f"[route.{toml_of(route.name) if '.' in route.name else route.name}]"]
        if route.when:
            lines.append(f"when = {toml_of(route.when)}")
        lines.append(f"to = {toml_of(route.to)}")
        if route.priority.name != "ROUTINE":
            lines.append(f"priority = {toml_of(route.priority.name.lower())}")
        if not route.companions:
            lines.append("companions = false")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
