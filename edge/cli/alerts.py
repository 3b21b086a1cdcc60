"""`edge alerts`: what is wrong, since when, what was told of it, and who has seen it."""

from __future__ import annotations

import time
from typing import Any

import click

from edge.cli.session import Session, config_option, json_option, login
from edge.cli.tables import print_json, print_table, say
from edge.config.alarms import KINDS
from edge.control import DaemonDown
from edge.errors import EdgeError
from edge.monitor import engine
from edge.store import alert_records
from edge.store.alert_records import AlertRecord
from edge.store.database import Connection
from edge.text import iso, iso_or_none, span

KEPT_SECONDS = 396 * 86400.0


@click.group(short_help="What is wrong, since when, and who has seen it.")
@config_option
def alerts() -> None:
    """Show alerts, and acknowledge them.

    An alert opens by itself and ends by itself; the manual's table says when. Acknowledging one says that somebody
    deals with it: it is then escalated only after five business days.

    \b
    Examples:  edge alerts list
               edge alerts ack 12 --note "provider called, ticket 4711"
    """


@alerts.command("list")
@click.option("--all", "everything", is_flag=True, help="Those of the last 13 months that are over, too.")
@json_option
@config_option
@click.pass_obj
def list_(session: Session, everything: bool, as_json: bool) -> None:
    """List the alerts that are open.

    \b
    Examples:  edge alerts list
               edge alerts list --all --json | jq '.[] | select(.directive)'
    """
    since = time.time() - KEPT_SECONDS if everything else 1e99
    with session.catalog() as conn:
        found = alert_records.records(conn, since)
    if as_json:
        print_json([_json(each) for each in found])
    elif found:
        columns = ["id", "severity", "alert", "subject", "since", "lasts", "seen by", "what"]
        print_table(columns, [_row(each, time.time()) for each in found])
    else:
        say("No alert is open.", "green")


@alerts.command()
@click.argument("number", type=int, metavar="ID")
@json_option
@config_option
@click.pass_obj
def show(session: Session, number: int, as_json: bool) -> None:
    """Show one alert: what it means, what to do, and what was told of it.

    \b
    Example:  edge alerts show 12
    """
    with session.catalog() as conn:
        found, told = alert_records.record(conn, number), alert_records.told_of(conn, number)
    if as_json:
        print_json(_json(found) | {"told": [{"at": iso(at), "event": event} for at, event in told]})
        return
    state = f"ended {iso(found.ended_at)}" if found.ended_at else "open"
    say(f"Alert {number}: {found.kind} ({found.subject}), {found.severity}, since {iso(found.since)}, {state}", "bold")
    for text in (found.what, found.means, found.do):
        if text:
            say(f"  {text[:1].upper()}{text[1:]}.")
    if found.acknowledged_at is not None:
        say(f"  Acknowledged {iso(found.acknowledged_at)} by {found.acknowledged_by}: {found.note}")
    for at, event in told:
        say(f"  {iso(at)}  told: {event}")


@alerts.command()
@click.argument("number", type=int, metavar="ID")
@click.option("--note", required=True, help="What is being done about it, or why nothing need be.")
@config_option
@click.pass_obj
def ack(session: Session, number: int, note: str) -> None:
    """Acknowledge an alert: somebody deals with it.

    What lasts until somebody has looked ends with that: conflict, quarantine and lost count what comes after as new;
    a downtime or new equipment is no remark any more.

    \b
    Example:  edge alerts ack 12 --note "provider called, ticket 4711"
    """
    if not note.strip():
        raise click.UsageError("--note says what is being done: it may not be empty")
    try:
        session.ask("alert-acknowledge", id=number, who=login(), note=note)
    except DaemonDown:
        if not session.has_catalog:
            raise EdgeError("there is no alert: the gateway has never run with this configuration") from None
        session.change(lambda conn: _acknowledge(conn, number, note))
    say(f"Alert {number} is acknowledged.")


def _acknowledge(conn: Connection, number: int, note: str) -> int:
    return engine.acknowledge(conn, number, login(), note, time.time()).id or number


def _row(each: AlertRecord, now: float) -> list[Any]:
    what = each.what if each.told else f"(not yet told) {each.what}"
    lasts = span((each.ended_at or now) - each.since)
    return [
        each.id,
        each.severity,
        each.kind,
        each.subject,
        iso(each.since),
        f"{lasts}, over" if each.ended_at else lasts,
        each.acknowledged_by or None,
        what,
    ]


def _json(each: AlertRecord) -> dict[str, Any]:
    return {
        "id": each.id,
        "kind": each.kind,
        "subject": each.subject,
        "severity": each.severity,
        "directive": KINDS[each.kind].directive or None if each.kind in KINDS else None,
        "since": iso(each.since),
        "ended": iso_or_none(each.ended_at),
        "told": bool(each.told),
        "escalated": iso_or_none(each.escalated_at),
        "acknowledged": iso_or_none(each.acknowledged_at),
        "acknowledged_by": each.acknowledged_by or None,
        "note": each.note or None,
        "what": each.what,
        "means": each.means,
        "do": each.do,
    }
