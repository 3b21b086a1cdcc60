"""`edge alerts`: open alerts, the notices sent about them, and who acknowledged them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import STYLES, console, print_json, print_table, say, with_old_keys
from edge.config.alarms import ALERT_KINDS
from edge.config.values import did_you_mean
from edge.errors import EdgeError
from edge.store import alert_records
from edge.store.alert_records import AlertRecord
from edge.text import as_sentence, iso, iso_or_none, moment_text, printable, span
from edge.web.guide import page_names, read_page

_LISTED_SECONDS = 396 * 86400.0


@click.group(short_help="List, show and acknowledge alerts.")
def alerts() -> None:
    """Show alerts, and acknowledge them.

    Alerts open and close automatically; the manual's table says when. An acknowledged alert is escalated only after
    five business days.

    \b
    Examples:  edge alerts list
               edge alerts ack 12 --note "provider called, ticket 4711"
    """


@alerts.command("list")
@click.option("--all", "everything", is_flag=True, help="Include closed alerts of the last 13 months.")
@json_option
@click.pass_obj
def list_(session: CommandSession, everything: bool, as_json: bool) -> None:
    """List the open alerts.

    \b
    Examples:  edge alerts list
               edge alerts list --all --json | jq '.[] | select(.directive)'
    """
    since = time.time() - _LISTED_SECONDS if everything else 1e99
    with session.catalog() as conn:
        found = _in_todays_words(session, alert_records.records(conn, since))
    if as_json:
        print_json([with_old_keys(_json(each)) for each in found])
    elif not found:
        say("No alert is open.", "green")
    elif console().is_terminal:
        console().print(Group(*(part for each in found for part in _lines(each, time.time()))))
    else:
        columns = ["id", "severity", "alert", "subject", "since", "duration", "acknowledged by", "text"]
        print_table(columns, [_row(each, time.time()) for each in found])


@alerts.command(short_help="Show one alert and its notices.")
@click.argument("number", type=int, metavar="ID")
@json_option
@click.pass_obj
def show(session: CommandSession, number: int, as_json: bool) -> None:
    """Show one alert: what is wrong, what it means, what to do, and the notices that were sent about it.

    \b
    Example:  edge alerts show 12
    """
    with session.catalog() as conn:
        (found,) = _in_todays_words(session, [alert_records.read_alert(conn, number)])
        notices = alert_records.notices_of(conn, number)
    if as_json:
        sent = [{"at": iso(at), "event": event} for at, event in notices]
        print_json(with_old_keys(_json(found) | {"notices": sent}))
        return
    state = f"closed {moment_text(found.ended_at)}" if found.ended_at else _open_state(found)
    say(
        f"Alert {number}: {found.kind} ({found.subject}), {found.severity}, since {moment_text(found.since)}, {state}",
        "bold",
    )
    for text in (found.what, found.means, found.advise()):
        if text:
            say(f"  {as_sentence(text)}")
    if found.acknowledged_at is not None:
        say(f"  Acknowledged {moment_text(found.acknowledged_at)} by {found.acknowledged_by}: {found.note}")
    for at, event in notices:
        say(f"  {moment_text(at)}  notice: {event}")


@alerts.command()
@click.argument("number", type=int, metavar="ID")
@click.option("--note", required=True, help="What is being done, or why nothing needs to be done.")
@click.pass_obj
def ack(session: CommandSession, number: int, note: str) -> None:
    """Acknowledge an alert: somebody is working on it.

    Acknowledging also dismisses what a person only needs to know: a downtime, new equipment, and the current items of
    conflict, quarantine, and missing or damaged files. Later items raise the alert again.

    \b
    Example:  edge alerts ack 12 --note "provider called, ticket 4711"
    """
    if not note.strip():
        raise click.UsageError("--note must not be empty")
    session.change("alert-acknowledge", id=number, note=note)
    say(f"Alert {number} is acknowledged.")


@alerts.command(short_help="Explain a kind of alert.")
@click.argument("kind")
def explain(kind: str) -> None:
    """Print the page of a kind of alert: what it means, whether images are safe, and what to do.

    \b
    Example:  edge alerts explain destination-down
    """
    text = read_page("alerts", kind)
    if text is None:
        near = did_you_mean(kind, page_names("alerts"))
        raise EdgeError(f'there is no page of an alert "{printable(kind)}"{near}')
    console().print(Markdown(text))


def _in_todays_words(session: CommandSession, found: list[AlertRecord]) -> list[AlertRecord]:
    """A record has the words and counts of its last change; while the gateway runs, the status has newer ones."""
    if not session.daemon_runs:
        return found
    now = {each["id"]: each for each in session.ask("status")["status"]["alerts"]}
    return [
        replace(each, **{name: now[each.id][name] for name in ("severity", "what", "means", "do")})
        if each.id in now and each.ended_at is None
        else each
        for each in found
    ]


def _open_state(each: AlertRecord) -> str:
    """An alert stays open for a while after its cause: a line that flaps is one alert."""
    return "open" if each.cleared_at is None else f"its cause is gone since {moment_text(each.cleared_at)}"


def _lines(each: AlertRecord, now: float) -> Iterator[RenderableType]:
    """An alert on a terminal, its text below its facts."""
    number, severity, kind, subject, since, duration, acknowledged_by, text = _row(each, now)
    about = f" {subject}" if subject else ""
    seen_by = f", acknowledged by {acknowledged_by}" if acknowledged_by else ""
    head = f"{number}  {severity}: {kind}{about} since {since} ({duration}){seen_by}"
    yield Text(printable(head), style=STYLES.get(severity, ""))
    yield Padding(Text(printable(text)), (0, 0, 0, 4))


def _row(each: AlertRecord, now: float) -> list[Any]:
    is_over = each.cleared_at is not None and each.ended_at is None
    note = _open_state(each) if is_over else "" if each.notified else "no notice sent yet"
    text = f"({note}) {each.what}" if note else each.what
    duration = span((each.ended_at or now) - each.since)
    return [
        each.id,
        each.severity,
        each.kind,
        each.subject,
        moment_text(each.since),
        f"{duration}, closed" if each.ended_at else duration,
        each.acknowledged_by or None,
        text,
    ]


def _json(each: AlertRecord) -> dict[str, Any]:
    return {
        "id": each.id,
        "kind": each.kind,
        "subject": each.subject,
        "severity": each.severity,
        "directive": ALERT_KINDS[each.kind].directive or None if each.kind in ALERT_KINDS else None,
        "since": iso(each.since),
        "ended": iso_or_none(each.ended_at),
        "notified": bool(each.notified),
        "escalated": iso_or_none(each.escalated_at),
        "acknowledged": iso_or_none(each.acknowledged_at),
        "acknowledged_by": each.acknowledged_by or None,
        "note": each.note or None,
        "what": each.what,
        "means": each.means,
        "do": each.advise(),
    }
