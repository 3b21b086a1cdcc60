"""Copies of studies that went out with other bytes than were received, and those under former demographics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Cell, Columns, local_time, print_list, print_table, say
from edge.dicom.uids import name_of
from edge.store.outdated_copies import OutdatedCopy, list_outdated_copies
from edge.store.sent_copies import SentAs
from edge.text import iso, size

_COLUMNS: Columns[OutdatedCopy] = {
    "destination": lambda each: each.destination,
    "images": lambda each: each.images,
    "sent": lambda each: local_time(each.sent_at),
    "changed": lambda each: local_time(each.changed_at),
    "differs in": lambda each: ", ".join(each.differs_in),
    "update": lambda each: "; ".join(f"{relay} {local_time(at)}" for relay, at in each.updates) or "none",
    "study UID": lambda each: each.study_uid,
}


@click.command(short_help="List what destinations have under a former name.")
@json_option
@click.pass_obj
def outdated(session: CommandSession, as_json: bool) -> None:
    """List studies that were sent before an update or merge of their patient.

    Nothing is sent again under the same UIDs: the destination learns of the change by HL7 ([relay.NAME]). "update" is
    when a relay acknowledged a later message.

    \b
    Example:  edge studies outdated
    """
    with session.catalog() as conn:
        found = list_outdated_copies(conn)
    none = "No destination has images under demographics that have changed since."
    print_list(found, _COLUMNS, none, as_json=as_json, json_of=_outdated_json)


def _outdated_json(each: OutdatedCopy) -> dict[str, Any]:
    updates = [{"relay": relay, "at": iso(at)} for relay, at in each.updates]
    return asdict(each) | {"sent_at": iso(each.sent_at), "changed_at": iso(each.changed_at), "updates": updates}


def print_copies(copies: Sequence[SentAs]) -> None:
    """Print, for each destination, what it holds of a study otherwise than it was received."""
    if not copies:
        return
    say("")
    say("Sent with other bytes than received:", "bold")
    columns = ["destination", "images", "by", "transfer syntax", "received", "sent"]
    print_table(columns, _groups(copies))


def _groups(copies: Iterable[SentAs]) -> list[list[Cell]]:
    numbers: Counter[tuple[str, tuple[str, ...], str]] = Counter()
    received: Counter[tuple[str, tuple[str, ...], str]] = Counter()
    sent: Counter[tuple[str, tuple[str, ...], str]] = Counter()
    for each in copies:
        key = each.destination, each.rules, each.transfer_syntax_uid
        numbers[key] += 1
        received[key] += each.received_bytes
        sent[key] += each.bytes
    return [
        [key[0], number, ", ".join(key[1]) or "-", name_of(key[2]), size(received[key]), size(sent[key])]
        for key, number in numbers.items()
    ]


def copies_json(copies: Iterable[SentAs], instance: int) -> list[dict[str, Any]]:
    """What destinations hold of one instance otherwise than it was received."""
    return [
        {
            "destination": each.destination,
            "sha256": each.sha256,
            "rules": list(each.rules),
            "transfer_syntax_uid": each.transfer_syntax_uid,
            "sop_instance_uid": each.sop_instance_uid or None,
            "received_bytes": each.received_bytes,
            "bytes": each.bytes,
        }
        for each in copies
        if each.instance_id == instance
    ]
