"""`edge prove`: the chain of custody of a study, from reception to eviction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.studies import UNROUTED, no_study
from edge.cli.tables import Cell, fail_unless, jsonable, local_time, print_json, print_table, progress_bar, say
from edge.monitor.custody import Custody, Event, custody, group_events
from edge.store import ledger
from edge.text import amount, iso, iso_or_none


@click.command(short_help="Prove that a study arrived at every destination.")
@click.argument("study_uid")
@click.option("--rows", is_flag=True, help="Print each row of the ledger with its hash, instead of a summary.")
@json_option
@click.pass_obj
def prove(session: CommandSession, study_uid: str, rows: bool, as_json: bool) -> None:
    """Prove from the custody ledger that a study arrived at every destination: who sent and confirmed it, and when.

    Checks the ledger's chain of hashes from the first row of the study to the newest row of all. Exit 0 only when every
    image is confirmed at every destination and the chain is whole. Where two versions of a SOP Instance UID were sent,
    no confirmation says which one the archive has. In the JSON, "hash" is the SHA-256 of the 32 bytes "before" and the
    text "row", so anyone can recompute it.

    \b
    Examples:  edge prove 1.2.840.113619.2.55
               edge prove --rows 1.2.840.113619.2.55
               edge prove --json 1.2.840.113619.2.55 > evidence.json
    """
    with session.catalog() as conn, progress_bar("checking the ledger") as tick:
        found = custody(conn, study_uid, tick)
        if found is None:
            raise no_study(session, conn, study_uid)
        recorded = [each.sop_instance_uid for each in session.recorded_of(conn, study_uid)]
    if as_json:
        print_json(_json(found) | {"recorded": recorded})
    else:
        if recorded:
            say(f"{amount(len(recorded), 'image')} recorded in the journal; the next start stores them.", "bold red")
        _print(found, rows=rows)
    fail_unless(found.is_proved and not recorded)


# -- for people --------------------------------------------------------------------------------------------------------


def _print(found: Custody, *, rows: bool) -> None:
    images = amount(found.images, "image")
    if found.is_proved:
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
        several = f"This study has images of {len(found.patients)} patients"
        say(f"{several}: `edge studies show {found.study_uid}` names them.", "bold red")
    _print_discarded(found)
    _print_commitments(found)
    say("")
    if rows:
        columns = ["row", "time", "event", "who", "destination", "images", "detail", "hash"]
        print_table(columns, map(_row_of, found.events))
    else:
        columns = ["event", "who", "destination", "images", "first", "last", "ledger rows", "detail"]
        print_table(columns, map(_events_row, group_events(found.events)))
    say("")
    chain = found.chain
    state = "whole" if chain.whole else f"BROKEN at row {chain.broken}"
    say(f"Ledger rows {chain.first} to {chain.last}: the chain is {state}; head {chain.head}")


def _why_not(found: Custody) -> str:
    proofs = [found.proved_images(each) for each in found.destinations]
    missing = sum(not proved for images in proofs for proved in images.values())
    reasons = [f"{amount(missing, 'confirmation')} missing."] if missing else []
    if not found.chain.whole:
        reasons.append(f"The ledger was altered at row {found.chain.broken}: keep a copy, and find out who did it.")
    return " ".join(reasons)


def _row(found: Custody, destination: str) -> list[Cell]:
    here = [verdict for (_, name), verdict in found.verdicts.items() if name == destination]
    images = found.proved_images(destination)
    proved = sum(images.values())
    last = max((verdict.confirmed_at for verdict in here if verdict.confirmed_at is not None), default=None)
    is_proved = "yes" if proved == len(images) else "NO"
    return [destination or UNROUTED, is_proved, f"{proved} of {len(images)}", local_time(last)]


def _print_missing(found: Custody) -> None:
    uids = {each.id: each.sop_instance_uid for each in found.instances}
    there = {name: found.proved_images(name) for name in found.destinations}
    reasons = Counter(
        (name or UNROUTED, verdict.text)
        for (instance, name), verdict in found.verdicts.items()
        if not verdict.proved and not there[name][uids[instance]]
    )
    for (name, text), n in reasons.most_common():
        say(f"  {name}: {amount(n, 'object')} {text}", "red")


def _print_versions(found: Custody) -> None:
    """Print which of several versions a destination may have."""
    for uid, several in found.versions.items():
        say(f"  {uid}: {len(several)} versions were received", "red")
        for each in several:
            where = "; ".join(
                f"{name or UNROUTED}: {'has it' if found.verdicts[each.id, name].proved else delivery.state.label}"
                for name, delivery in each.deliveries.items()
            )
            say(f"    sha256 {each.sha256[:16]}... of {local_time(each.received_at)}: {where}", "red")


def _print_discarded(found: Custody) -> None:
    """Print discarded images with their digests; the ledger's rows say who discarded them and why."""
    for each in found.refused_versions:
        kept = f"its file deleted {local_time(each.deleted_at)}" if each.deleted_at else "its file is still stored"
        say(
            f"  discarded: {each.sop_instance_uid}, {local_time(each.discarded_at)}, {kept}, SHA-256 {each.sha256}",
            "yellow",
        )


def _print_commitments(found: Custody) -> None:
    """Print what was committed to modalities, and which of them still wait for a report."""
    for event in found.events:
        if event.event in (ledger.COMMITTED, ledger.NOT_COMMITTED):
            is_given, images = event.event == ledger.COMMITTED, amount(len(event.instances), "image")
            said = (
                f"committed to {event.who} {local_time(event.at)}, {images}"
                if is_given
                else f"not committed to {event.who}"
            )
            say(f"  {said}: {event.words}", "" if is_given else "red")
    for each in found.commitments:
        if each.state != "reported":
            say(
                f"  {each.modality} asked for commitment {local_time(each.requested_at)} and has no report yet",
                "yellow",
            )


def _row_of(event: Event) -> list[Cell]:
    images = len(event.instances)
    return [event.seq, local_time(event.at), event.event, event.who, event.destination, images, event.words, event.hash]


def _events_row(events: Sequence[Event]) -> list[Cell]:
    first, last = events[0], events[-1]
    details = {event.words for event in events}
    return [
        first.event,
        first.who,
        first.destination,
        sum(len(event.instances) for event in events),
        local_time(first.at),
        local_time(last.at),
        str(first.seq) if first is last else f"{first.seq} to {last.seq}",
        details.pop() if len(details) == 1 else "",
    ]


# -- for programs ------------------------------------------------------------------------------------------------------


def _json(found: Custody) -> dict[str, Any]:
    uids = {each.id: each.sop_instance_uid for each in found.instances}
    return {
        "study_uid": found.study_uid,
        "proved": found.is_proved,
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
                "detail": event.words,
                "payload": dict(event.payload),
                "before": event.before,
                "row": event.covered,
                "hash": event.hash,
            }
            for event in found.events
        ],
        "commitments": [jsonable(each) for each in found.commitments],
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
