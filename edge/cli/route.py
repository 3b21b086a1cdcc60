"""`edge route explain`: which routes an object meets, and why not the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from edge.cli.session import Session, config_option, json_option, note
from edge.cli.studies import known_study
from edge.cli.tables import print_json, say
from edge.dicom.part10 import MAX_META, parse_meta
from edge.errors import EdgeError, Unreadable
from edge.intake import Policy, look
from edge.model import Assignment, InstanceHeader, Origin
from edge.routing.rules import Companion, Explanation, Finding
from edge.store import companions, queries
from edge.text import marked

#: Stands for what nothing tells.
UNKNOWN = Origin("ANY-SCU", "EDGE", "127.0.0.1", 0.0)


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

    @property
    def goes_nowhere(self) -> bool:
        return not self.assignments and not self.led_to


@click.group(short_help="Where would an object go, and why?")
@config_option
def route() -> None:
    """Ask the routes of the configuration where an object would go."""


@route.command(short_help="Which routes match, which do not, and why.")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--study", metavar="UID", help="The images of a study that is in the spool.")
@click.option("--calling-ae", metavar="AE", help="As if sent by this AE title.  [default: the file's own sender]")
@click.option("--called-ae", metavar="AE", help="As if sent to this AE title.  [default: listen.ae_title]")
@click.option("--address", metavar="IP", help="As if sent from this address.  [default: the file's own sender]")
@json_option
@config_option
@click.pass_obj
def explain(
    session: Session,
    files: tuple[Path, ...],
    study: str | None,
    calling_ae: str | None,
    called_ae: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Say which routes match an object, which do not and why, and what would be sent where.

    Nothing is sent. The rules are those of the configuration as it is now, even where the running gateway has not
    read it yet. An object without an image of its own (a report, a key object, a presentation state ...) goes where the
    images of its study go as well; those that are here are asked. Exit 1 when some object would be held because no
    route matches.

    \b
    Examples:  edge route explain slice.dcm --calling-ae CT1 --address 10.10.4.21
               edge route explain --study 1.2.840.113619.2.55.3.604688119.868
    """
    if bool(files) == bool(study):
        raise click.UsageError("give either some files, or --study UID")
    policy = Policy.of(session.config)
    unknown = replace(UNKNOWN, called_ae=session.config.listen.ae_title, received_at=time.time())

    def of(known: Origin | None) -> Origin:
        origin = known or unknown
        return Origin(
            calling_ae or origin.calling_ae,
            called_ae or origin.called_ae,
            address or origin.address,
            origin.received_at,
        )

    found = [_explain(session, policy, name, path, of) for name, path in _paths(session, files, study)]
    if as_json:
        print_json([_json(each) for each in found])
    else:
        _print(found)
    if any(each.goes_nowhere for each in found):
        raise SystemExit(1)


def _paths(session: Session, files: Sequence[Path], study_uid: str | None) -> Iterator[tuple[str, Path]]:
    if study_uid is None:
        yield from ((str(path), path) for path in files)
        return
    with session.catalog() as conn:
        study = known_study(queries.study(conn, study_uid), study_uid)
        instances = queries.instances_of(conn, study.id)
    for each in instances:
        path = session.data_dir / "spool" / each.path
        if path.exists():
            yield each.sop_instance_uid, path
        else:
            note(f"{each.sop_instance_uid} is {each.state.value}: its file is not in the spool any more")


def _explain(session: Session, policy: Policy, name: str, path: Path, origin_of: OriginOf) -> Explained:
    try:
        facts = _facts(policy, path, origin_of)
    except Unreadable as error:
        raise EdgeError(f"{path} would be quarantined: {error}") from None
    rules, decision = policy.rules, policy.rules.decide(facts)
    led = _led_to(session, policy, facts) if decision.companion is Companion.FOLLOWS else ()
    there = {each.destination for each in decision.assignments}
    return Explained(
        name,
        facts.origin,
        rules.explain(facts),
        decision.assignments,
        rules.hold_reason(facts),
        decision.companion,
        tuple(each for each in led if each.destination not in there),
    )


def _led_to(session: Session, policy: Policy, facts: InstanceHeader) -> Sequence[Assignment]:
    if not session.has_catalog:
        return ()
    with session.quiet_catalog() as conn:
        study = queries.study(conn, facts.first("StudyInstanceUID"))
        return companions.led_to(conn, study.id, policy.lead_none) if study else ()


def _facts(policy: Policy, path: Path, origin_of: OriginOf) -> InstanceHeader:
    with path.open("rb") as file:
        meta = parse_meta(file.read(MAX_META))
        length = os.fstat(file.fileno()).st_size - meta.dataset_offset

        def read(at: int, count: int) -> bytes:
            return os.pread(file.fileno(), count, meta.dataset_offset + at)

        return look(read, length, meta.kind, meta.sop_instance_uid, origin_of(meta.origin), policy)


def _print(found: Sequence[Explained]) -> None:
    for group in _alike(found):
        first = group[0]
        also = f" and {len(group) - 1:,} more that fare the same" if len(group) > 1 else ""
        say(f"{first.name}{also}", "bold")
        say(f"  from {first.origin.calling_ae} at {first.origin.address} to {first.origin.called_ae}")
        if first.origin.calling_ae == UNKNOWN.calling_ae:
            say("  (nobody knows who would send it: say so with --calling-ae and --address)", "yellow")
        for each in first.routes:
            _print_route(each)
        for sent in first.assignments:
            say(f"  would go to {sent.destination}, {sent.priority.name.lower()}, by route {sent.route}", "green")
        for sent in first.led_to:
            say(
                f"  would go to {sent.destination}, {sent.priority.name.lower()}, with the images of its study", "green"
            )
        if first.companion is Companion.FOLLOWS:
            say("  it has no image of its own: it goes wherever images of its study go")
        if first.goes_nowhere and first.companion is Companion.FOLLOWS:
            say("  no route matches, and no image of its study is here: it waits an hour for one, then is held", "red")
        elif first.goes_nowhere:
            say("  would go nowhere: no route matches, so it is held for a person", "bold red")
        if first.hold:
            say(f"  would be kept for ever by {first.hold}")
        say("")


def _print_route(explained: Explanation) -> None:
    word, style = ("matches", "green") if explained.matched else ("does not match", "yellow")
    say(f"  route {explained.route} {word}: to {', '.join(explained.to)}", style)
    if not explained.findings:
        say("    it has no conditions")
    for finding in explained.findings:
        mark = "yes" if finding.ok else "NO "
        say(f"    {mark} {finding.keyword}: expected {finding.expected}, found {_found(finding)}")


def _found(finding: Finding) -> str:
    return ", ".join(marked(value, f'"{value}"') for value in finding.found) or "no value"


def _alike(found: Sequence[Explained]) -> list[list[Explained]]:
    """Files that fare the same in everything that is said of them, together."""
    groups: dict[str, list[Explained]] = {}
    for each in found:
        groups.setdefault(
            repr((each.origin.calling_ae, each.origin.address, each.routes, each.hold, each.led_to)), []
        ).append(each)
    return list(groups.values())


def _json(each: Explained) -> dict[str, Any]:
    return {
        "file": each.name,
        "origin": {
            "calling_ae": each.origin.calling_ae,
            "called_ae": each.origin.called_ae,
            "address": each.origin.address,
            "received_at": each.origin.received_at,
        },
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
        "sent_to": [
            {"destination": sent.destination, "priority": sent.priority.name.lower(), "route": sent.route}
            for sent in each.assignments
        ],
        "follows_study": each.companion is Companion.FOLLOWS,
        "with_study": [
            {"destination": sent.destination, "priority": sent.priority.name.lower(), "route": sent.route}
            for sent in each.led_to
        ],
        "hold": each.hold,
    }
