"""`edge prove`: the custody of a study, received to evicted, as evidence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from edge.cli.session import Session, config_option, json_option
from edge.cli.studies import NO_ROUTE, local
from edge.cli.tables import Cell, print_json, print_table, say
from edge.errors import EdgeError
from edge.monitor.custody import Custody, Event, custody
from edge.text import counted, iso, iso_or_none


@click.command(short_help="Prove that a study has arrived everywhere.")
@click.argument("study_uid")
@click.option("--rows", is_flag=True, help="Each row of the ledger with its hash, instead of a summary.")
@json_option
@config_option
@click.pass_obj
def prove(session: Session, study_uid: str, rows: bool, as_json: bool) -> None:
    """Prove that a study has arrived everywhere: who sent it, who confirmed what and when, by the custody ledger.

    The ledger's rows are chained by hashes; the chain is checked from the study's first row to the newest of all.
    Exit 0 only when every image is confirmed at every destination and the chain is whole. An image is a SOP Instance
    UID: where two versions of one were sent, no confirmation says which the archive has. In the JSON, "hash" is the
    SHA-256 of the 32 bytes "before" and the text "row", so anybody can do the sum again.

    \b
    Examples:  edge prove 1.2.840.113619.2.55.3.604688119.868
               edge prove --rows 1.2.840.113619.2.55.3.604688119.868
               edge prove --json 1.2.840.113619.2.55.3.604688119.868 > evidence.json
    """
    with session.catalog() as conn, _progress() as tick:
        found = custody(conn, study_uid, tick)
    if found is None:
        raise EdgeError(f"no study {study_uid} has been received; `edge studies list --search TEXT` looks for one")
    if as_json:
        print_json(_json(found))
    else:
        _print(found, rows=rows)
    if not found.proved:
        raise SystemExit(1)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Shown on a terminal only, and gone when it ends."""
    beside = Console(stderr=True)
    with Progress(console=beside, transient=True, disable=not beside.is_terminal) as progress:
        task = progress.add_task("checking the ledger", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


# -- for people --------------------------------------------------------------------------------------------------------


def _print(found: Custody, *, rows: bool) -> None:
    images = counted(found.images, "image")
    if found.proved:
        where = ", ".join(found.destinations)
        say(f"Proved: every one of {images} of study {found.study_uid} is confirmed at {where}.", "bold green")
    else:
        say(f"Not proved: study {found.study_uid}, {images}. {_why_not(found)}", "bold red")
    print_table(
        ["destination", "proved", "images", "last confirmed"], [_row(found, each) for each in found.destinations]
    )
    _print_missing(found)
    _print_versions(found)
    if found.patients:
        several = f"Images of {len(found.patients)} patients lie under this study"
        say(f"{several}: `edge studies show {found.study_uid}` names them.", "bold red")
    _print_discarded(found)
    say("")
    if rows:
        columns = ["row", "time", "event", "who", "destination", "images", "detail", "hash"]
        print_table(columns, map(_row_of, found.events))
    else:
        columns = ["event", "who", "destination", "images", "first", "last", "ledger rows", "detail"]
        print_table(columns, map(_events_row, _alike(found.events)))
    say("")
    chain = found.chain
    state = "whole" if chain.whole else f"BROKEN at row {chain.broken}"
    say(f"Ledger rows {chain.first} to {chain.last}: the chain is {state}; head {chain.head}")


def _why_not(found: Custody) -> str:
    proofs = [found.proved_images(each) for each in found.destinations]
    missing = sum(not proved for images in proofs for proved in images.values())
    reasons = [f"{counted(missing, 'confirmation')} missing."] if missing else []
    if not found.chain.whole:
        reasons.append(f"The ledger was changed at row {found.chain.broken}: keep a copy, and find out who did it.")
    return " ".join(reasons)


def _row(found: Custody, destination: str) -> list[Cell]:
    here = [verdict for (_, name), verdict in found.verdicts.items() if name == destination]
    images = found.proved_images(destination)
    proved = sum(images.values())
    last = max((verdict.confirmed_at for verdict in here if verdict.confirmed_at is not None), default=None)
    told = "yes" if proved == len(images) else "NO"
    return [destination or NO_ROUTE, told, f"{proved} of {len(images)}", local(last)]


def _print_missing(found: Custody) -> None:
    uids = {each.id: each.sop_instance_uid for each in found.instances}
    there = {name: found.proved_images(name) for name in found.destinations}
    reasons = Counter(
        (name or NO_ROUTE, verdict.text)
        for (instance, name), verdict in found.verdicts.items()
        if not verdict.proved and not there[name][uids[instance]]
    )
    for (name, text), n in reasons.most_common():
        say(f"  {name}: {counted(n, 'object')} {text}", "red")


def _print_versions(found: Custody) -> None:
    """Which of several versions a destination can have."""
    for uid, several in found.versions.items():
        say(f"  {uid}: {len(several)} versions were received", "red")
        for each in several:
            where = "; ".join(
                f"{name or NO_ROUTE}: {'has it' if found.verdicts[each.id, name].proved else delivery.state.value}"
                for name, delivery in each.deliveries.items()
            )
            say(f"    sha256 {each.sha256[:16]}... of {local(each.received_at)}: {where}", "red")


def _print_discarded(found: Custody) -> None:
    """What a person refused is named with its digest: who did it and why stands in the ledger's rows below."""
    for each in found.discarded:
        kept = f"its file deleted {local(each.deleted_at)}" if each.deleted_at else "its file is still kept"
        say(
            f"  discarded: {each.sop_instance_uid}, {local(each.discarded_at)}, {kept}, SHA-256 {each.sha256}", "yellow"
        )


def _alike(events: Sequence[Event]) -> list[list[Event]]:
    """Events that say the same of several images, by their first row; the JSON has them one by one."""
    groups: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
    for event in events:
        groups[event.event, event.who, event.destination].append(event)
    return list(groups.values())


def _row_of(event: Event) -> list[Cell]:
    images = len(event.instances)
    return [event.seq, local(event.at), event.event, event.who, event.destination, images, event.detail, event.hash]


def _events_row(events: Sequence[Event]) -> list[Cell]:
    first, last = events[0], events[-1]
    details = {event.detail for event in events}
    return [
        first.event,
        first.who,
        first.destination,
        sum(len(event.instances) for event in events),
        local(first.at),
        local(last.at),
        str(first.seq) if first is last else f"{first.seq} to {last.seq}",
        details.pop() if len(details) == 1 else "",
    ]


# -- for programs ------------------------------------------------------------------------------------------------------


def _json(found: Custody) -> dict[str, Any]:
    uids = {each.id: each.sop_instance_uid for each in found.instances}
    return {
        "study_uid": found.study_uid,
        "proved": found.proved,
        "images": found.images,
        "patients": max(1, len(found.patients)),
        "instances": [
            {
                "sop_instance_uid": each.sop_instance_uid,
                "sha256": each.sha256,
                "state": each.state.value,
                "discarded_at": iso_or_none(each.discarded_at),
                "received_at": iso(each.received_at),
                "calling_ae": each.calling_ae,
                "address": each.address,
                "destinations": {name: _verdict_json(found, each.id, name) for name in each.deliveries},
            }
            for each in found.instances
        ],
        "events": [
            {
                "seq": event.seq,
                "at": event.at,
                "event": event.event,
                "who": event.who,
                "instances": [uids.get(each, "") for each in event.instances],
                "destination": event.destination,
                "detail": event.detail,
                "before": event.before,
                "row": event.told,
                "hash": event.hash,
            }
            for event in found.events
        ],
        "chain": {
            "first": found.chain.first,
            "last": found.chain.last,
            "whole": found.chain.whole,
            "broken": found.chain.broken,
            "head": found.chain.head,
        },
    }


def _verdict_json(found: Custody, instance: int, destination: str) -> dict[str, Any]:
    verdict = found.verdicts[instance, destination]
    return {"proved": verdict.proved, "confirmed_at": iso_or_none(verdict.confirmed_at), "text": verdict.text}
