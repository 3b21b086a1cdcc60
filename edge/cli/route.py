"""`edge route explain`: which routes match an object, and why others do not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from edge.cli.copy_preview import preview_copies
from edge.cli.session import CommandSession, json_option, print_note
from edge.cli.studies import require_study
from edge.cli.tables import fail_unless, print_json, say
from edge.dicom.header import read_at, read_header
from edge.dicom.part10 import MAX_META, parse_meta
from edge.errors import EdgeError, Unreadable
from edge.intake.policy import Policy
from edge.intake.routing import ConditionResult, Explanation
from edge.model import Assignment, Companion, InstanceHeader, Origin
from edge.store import companions, queries
from edge.store.studies import study_by_uid
from edge.text import mark_guess
from edge.transform.preview import CopyPreview

#: The origin of a file where nothing is known.
UNKNOWN_ORIGIN = Origin("ANY-SCU", "EDGE", "127.0.0.1", 0.0)


#: The origin to assume of a file, given what the file tells of it.
OriginOf = Callable[[Origin | None], Origin]


@dataclass(frozen=True, slots=True)
class Explained:
    """What the rules say of one file."""

    name: str
    origin: Origin
    routes: list[Explanation]
    assignments: tuple[Assignment, ...]
    hold: str
    companion: Companion
    led_to: tuple[Assignment, ...]  # where the images of its study, that are here, lead it besides
    copies: tuple[CopyPreview, ...] = ()  # what each destination would get otherwise than it came

    @property
    def goes_nowhere(self) -> bool:
        return not self.assignments and not self.led_to


@click.group(short_help="Explain where an object would be sent.")
def route() -> None:
    """Explain where the configured routes would send an object."""


@route.command(short_help="Show which routes match, which do not, and why.")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--study", metavar="UID", help="The images of a study that is in the spool.")
@click.option("--calling-ae", metavar="AE", help="As if sent by this AE title.  [default: the file's own sender]")
@click.option("--called-ae", metavar="AE", help="As if sent to this AE title.  [default: listen.ae_title]")
@click.option("--address", metavar="IP", help="As if sent from this address.  [default: the file's own sender]")
@json_option
@click.pass_obj
def explain(
    session: CommandSession,
    files: tuple[Path, ...],
    study: str | None,
    calling_ae: str | None,
    called_ae: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Show which routes match an object, which do not and why, and where it would be sent.

    Nothing is sent. What [coerce] rules, today's demographics, de-identification and compression would change is shown
    before and after, for each destination. The configuration files count, even if the running gateway has not reloaded
    them.
    A non-image object (a report, a key object, a presentation state ...) is also sent where the stored images of its
    study are sent. Exit 1 when an object would be held because no route matches.

    \b
    Examples:  edge route explain slice.dcm --calling-ae CT1 --address 10.10.4.21
               edge route explain --study 1.2.840.113619.2.55
    """
    if bool(files) == bool(study):
        raise click.UsageError("name files, or --study UID")
    policy = Policy.from_config(session.config)
    unknown = replace(UNKNOWN_ORIGIN, called_ae=session.config.listen.ae_title, received_at=time.time())

    def origin_of(known: Origin | None) -> Origin:
        origin = known or unknown
        return Origin(
            calling_ae or origin.calling_ae,
            called_ae or origin.called_ae,
            address or origin.address,
            origin.received_at,
        )

    found = [_explain(session, policy, name, path, origin_of) for name, path in _paths(session, files, study)]
    if as_json:
        print_json([_json(each) for each in found])
    else:
        _print(found)
    fail_unless(not any(each.goes_nowhere for each in found))


def _paths(session: CommandSession, files: Sequence[Path], study_uid: str | None) -> Iterator[tuple[str, Path]]:
    if study_uid is None:
        yield from ((str(path), path) for path in files)
        return
    with session.catalog() as conn:
        study = require_study(session, conn, study_uid)
        instances = queries.instances_of(conn, study.id)
    for each in instances:
        path = session.data_dir / "spool" / each.path
        if path.exists():
            yield each.sop_instance_uid, path
        else:
            print_note(f"{each.sop_instance_uid} is {each.state.value}: its file is no longer stored")


def _explain(session: CommandSession, policy: Policy, name: str, path: Path, origin_of: OriginOf) -> Explained:
    try:
        facts = _facts(policy, path, origin_of)
    except Unreadable as error:
        raise EdgeError(f"{path} would be quarantined: {error}") from None
    rules, decision = policy.rules, policy.rules.decide(facts)
    led = _led_to(session, policy, facts) if decision.companion is Companion.FOLLOWS else ()
    there = {each.destination for each in decision.assignments}
    led = tuple(each for each in led if each.destination not in there)
    to = dict.fromkeys(each.destination for each in (*decision.assignments, *led))
    return Explained(
        name,
        facts.origin,
        rules.explain(facts),
        decision.assignments,
        rules.hold_reason(facts),
        decision.companion,
        led,
        preview_copies(session, path, facts, tuple(to)),
    )


def _led_to(session: CommandSession, policy: Policy, facts: InstanceHeader) -> Sequence[Assignment]:
    if not session.has_catalog:
        return ()
    with session.quiet_catalog() as conn:
        study = study_by_uid(conn, facts.first("StudyInstanceUID"))
        return companions.led_to(conn, study.id, policy.routes_without_companions) if study else ()


def _facts(policy: Policy, path: Path, origin_of: OriginOf) -> InstanceHeader:
    with path.open("rb") as file:
        meta = parse_meta(file.read(MAX_META))
        length = os.fstat(file.fileno()).st_size - meta.dataset_offset
        read = read_at(file.fileno(), meta.dataset_offset)
        return read_header(read, length, meta.context_key, meta.sop_instance_uid, origin_of(meta.origin), policy.header)


def _print(found: Sequence[Explained]) -> None:
    for group in _alike(found):
        first = group[0]
        also = f" and {len(group) - 1:,} more with the same result" if len(group) > 1 else ""
        say(f"{first.name}{also}", "bold")
        say(f"  from {first.origin.calling_ae} at {first.origin.address} to {first.origin.called_ae}")
        if first.origin.calling_ae == UNKNOWN_ORIGIN.calling_ae:
            say("  sender unknown; set --calling-ae and --address", "yellow")
        for explained in first.routes:
            _print_route(explained)
        sent = [(each, f"by route {each.route}") for each in first.assignments]
        for each, how in [*sent, *((each, "with the images of its study") for each in first.led_to)]:
            say(f"  would be sent to {each.destination}, {each.priority.name.lower()}, {how}", "green")
        for copy in first.copies:
            _print_copy(copy)
        if first.companion is Companion.FOLLOWS:
            say("  not an image: it is also sent wherever images of its study are sent")
        if first.goes_nowhere and first.companion is Companion.FOLLOWS:
            say(
                "  no route matches, and no image of its study is stored: it waits for one for an hour, then is held",
                "red",
            )
        elif first.goes_nowhere:
            say("  no route matches: it would be held for a person's decision", "bold red")
        if first.hold:
            say(f"  retention would never delete it: {first.hold}")
        say("")


def _print_copy(copy: CopyPreview) -> None:
    """Print what a destination would get: each attribute before and after."""
    if copy.fault:
        say(f"  the copy for {copy.destination} would be held: {copy.fault}", "bold red")
    if copy.rules:
        say(f"  the copy for {copy.destination} would be changed by {', '.join(copy.rules)}", "yellow")
    for each in copy.changes:
        say(f"    {each.keyword}: {_quote(each.before)} -> {_quote(each.after)}")
    if copy.compress:
        say(f"  the copy for {copy.destination} would be compressed where it can be: {copy.compress}")


def _quote(value: str | None) -> str:
    return "absent" if value is None else f'"{value}"'


def _print_route(explained: Explanation) -> None:
    word, style = ("matches", "green") if explained.matched else ("does not match", "yellow")
    say(f"  route {explained.route} {word}: to {', '.join(explained.to)}", style)
    if not explained.findings:
        say("    no conditions")
    for finding in explained.findings:
        mark = "yes" if finding.ok else "NO "
        say(f"    {mark} {finding.keyword}: expected {finding.expected}, found {_values_of(finding)}")


def _values_of(finding: ConditionResult) -> str:
    return ", ".join(mark_guess(value, f'"{value}"') for value in finding.found) or "no value"


def _alike(found: Sequence[Explained]) -> list[list[Explained]]:
    """Group files with the same result."""
    groups: dict[str, list[Explained]] = {}
    for each in found:
        groups.setdefault(
            repr((each.origin.calling_ae, each.origin.address, each.routes, each.hold, each.led_to, each.copies)), []
        ).append(each)
    return list(groups.values())


def _json(each: Explained) -> dict[str, Any]:
    return {
        "file": each.name,
        "origin": asdict(each.origin),
        "routes": [
            {
                "route": one.route,
                "matched": one.matched,
                "to": list(one.to),
                "priority": one.priority.name.lower(),
                "conditions": [
                    {"keyword": f.keyword, "expected": f.expected, "found": list(f.found), "met": f.ok}
                    for f in one.findings
                ],
            }
            for one in each.routes
        ],
        "sent_to": [_assignment_json(sent) for sent in each.assignments],
        "follows_study": each.companion is Companion.FOLLOWS,
        "with_study": [_assignment_json(sent) for sent in each.led_to],
        "hold": each.hold,
        "copies": [asdict(copy) for copy in each.copies],
    }


def _assignment_json(sent: Assignment) -> dict[str, Any]:
    return {"destination": sent.destination, "priority": sent.priority.name.lower(), "route": sent.route}
