"""`edge status`: the state of the gateway, with one sentence first."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live as Screen
from rich.text import Text

from edge.cli.session import CommandSession, json_option, print_note
from edge.cli.tables import STYLES, Cell, console, fail_unless, format_columns, print_json, table
from edge.console.headline import is_untried
from edge.daemon.control import DaemonDown
from edge.monitor.live import DOWN, RUNNING, Live
from edge.text import age, amount, from_iso, moment_text, percent, printable, size, span

Status = dict[str, Any]

_WATCH_SECONDS = 2.0
BAD_SEVERITIES = ("critical", "major")
UNREAD = "the configuration's files have changed since the gateway read them: `edge check`, `systemctl reload edge`"
REBUILD_FIRST = "type `edge recover`, which finds what is still to be sent, then `systemctl start edge`"
START = "start it with `systemctl start edge`, or see why it ended with `journalctl -u edge`"


@click.command(short_help="Show gateway status.")
@json_option
@click.option("--watch", is_flag=True, help=f"Repeat every {_WATCH_SECONDS:g} seconds, until Ctrl-C.")
@click.pass_obj
def status(session: CommandSession, as_json: bool, watch: bool) -> None:
    """Show gateway status: a sentence, then destinations, storage, queue and alerts.

    The sentence states what is wrong, since when, whether images are safe, and what to do. Exit 0 when there is no
    alert or only minor ones, 1 when the gateway is down or an alert is major or critical.

    \b
    Examples:  edge status
               edge status --json | jq .queue.held
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    if watch:
        _watch(session)
        return
    found = read_status(session)
    if found["state"] == DOWN and session.has_catalog:
        print_note(f"the gateway is down; this is what its catalog in {session.data_dir} says")
    if as_json:
        print_json(found)
    else:
        _print(found)
        if session.has_unread_files():
            print_note(UNREAD)
    fail_unless(is_well(found))


def read_status(session: CommandSession) -> Status:
    """Read the status from the daemon, or from the catalog where it is down."""
    try:
        return dict(session.ask("status")["status"])
    except DaemonDown:
        return _read_catalog(session)


def _read_catalog(session: CommandSession) -> Status:
    from edge.monitor import health  # noqa: PLC0415 - all of the store, which the daemon has
    from edge.monitor.status_document import status_json  # noqa: PLC0415
    from edge.spool.room import disk_of  # noqa: PLC0415

    disk = disk_of(session.data_dir)
    with session.quiet_catalog() as conn:
        found = status_json(health.snapshot(conn, session.config, disk, Live(DOWN), time.time()))
        damage = session.find_damage(conn)  # without its rows all that the journal has seems to be new
        recorded = 0 if damage else len(session.read_tail(conn).objects)
        return found | {"catalog_damage": damage or None, "recorded": recorded}


def is_well(found: Status) -> bool:
    """Is no alert major or critical, and the gateway up?"""
    return found["state"] != DOWN and not any(alert["severity"] in BAD_SEVERITIES for alert in found["alerts"])


def _watch(session: CommandSession) -> None:
    out = console()
    with Screen(console=out, auto_refresh=False, vertical_overflow="crop") as screen:
        try:
            while True:
                screen.update(_page(read_status(session), time.time(), terminal=out.is_terminal), refresh=True)
                time.sleep(_WATCH_SECONDS)
        except KeyboardInterrupt:
            pass  # the way to end it


def _print(found: Status) -> None:
    out = console()
    out.print(_page(found, time.time(), terminal=out.is_terminal), soft_wrap=not out.is_terminal)


# -- the sentence ------------------------------------------------------------------------------------------------------


def status_sentence(found: Status, now: float) -> str:
    """State what is wrong, since when, whether images are safe, and what to do."""
    if found["state"] == DOWN:
        down = f"The gateway is down{_since_text(found['since'], now)}, and scanners cannot send"
        if damage := found.get("catalog_damage"):
            return f"{down}; its catalog is damaged ({damage}), but the images stay on disk: {REBUILD_FIRST}."
        return f"{down}; {_images_text(found)}: {START}."
    alerts = found["alerts"]
    if _leads_with_alert(found):
        worst = alerts[0]
        others = f" ({amount(len(alerts) - 1, 'more alert')} below)" if len(alerts) > 1 else ""
        return f"Alert{_since_text(worst['since'], now)}: {worst['text']}{others}"
    state = "All is well" if not alerts else f"Working, with {amount(len(alerts), 'notice')} below"
    if found["state"] != RUNNING:
        state = f"The gateway is {found['state']}"
    return f"{state}: {amount(found['instances']['received'], 'image')} received, {_to_go(found)}."


def _leads_with_alert(found: Status) -> bool:
    """Is the worst alert the sentence?"""
    alerts = found["alerts"]
    return found["state"] != DOWN and bool(alerts) and alerts[0]["severity"] in BAD_SEVERITIES


def _images_text(found: Status) -> str:
    waiting = _unsent(found) + found.get("recorded", 0)  # what only the journal has is sent as well
    if waiting:
        return f"the {amount(waiting, 'image')} still to be sent {'is' if waiting == 1 else 'are'} safe on disk"
    if not found["instances"]["received"]:
        return "no image is on record"
    return "every accepted image has been sent"


def _to_go(found: Status) -> str:
    waiting = _unsent(found)
    if not waiting:
        return "nothing left to send"
    longest = [each["drain_seconds"] for each in found["destinations"].values() if (each["drain_seconds"] or 0) >= 1]
    forecast = f", sent in about {span(max(longest))}" if longest else ""
    return f"{waiting:,} to send ({size(found['queue']['bytes'])}){forecast}"


def _unsent(found: Status) -> int:
    return sum(found["queue"][state] for state in ("pending", "active", "deferred", "held"))


def _since_text(moment: str | None, now: float) -> str:
    if moment is None:
        return ""
    at = from_iso(moment)
    local = moment_text(at)
    return f" since {local} ({span(now - at)})"


# -- the page ----------------------------------------------------------------------------------------------------------


def _page(found: Status, now: float, *, terminal: bool) -> RenderableType:
    style = "bold green" if is_well(found) else "bold red"
    parts: list[RenderableType] = [Text(printable(status_sentence(found, now)), style=style)]
    for columns, rows in (_destinations(found, now), _facts(found)):
        if rows:
            parts += [Text(), table(columns, rows) if terminal else Text(format_columns(columns, rows))]
    for alert in found["alerts"][_leads_with_alert(found) :]:
        seen_by = f", acknowledged by {printable(alert['acknowledged'])}" if alert.get("acknowledged") else ""
        head = f"\n{alert['severity']}: {alert['kind']}{_since_text(alert['since'], now)}{seen_by}"
        parts += [Text(head, style=STYLES[alert["severity"]]), Text(printable(alert["text"]))]
    return Group(*parts)


Rows = tuple[list[str], list[list[Cell]]]


def _destinations(found: Status, now: float) -> Rows:
    columns = ["destination", "state", "pending", "deferred", "held", "sent", "confirmed", "drains in", "last success"]
    rows: list[list[Cell]] = [
        [
            f"{name} (DICOMweb)" if each.get("kind") == "dicomweb" else name,
            "not tried" if each["state"] == "up" and is_untried(each) else each["state"],
            each["pending"],
            each["deferred"],
            each["held"],
            each["sent"],
            each["confirmed"],
            _forecast(each["drain_seconds"]),
            _ago(each["last_success"], now),
        ]
        for name, each in found["destinations"].items()
    ]
    return columns, rows


def _facts(found: Status) -> Rows:
    storage, queue, instances = found["storage"], found["queue"], found["instances"]
    full = storage["full_in_seconds"]
    oldest = queue["oldest_seconds"]
    return [], [
        [
            "storage",
            f"{percent(storage['used_fraction'])} used, {size(storage['free_bytes'])} free",
            "not filling" if full is None else f"full in {span(full)}" if full >= 1 else "full",
        ],
        [
            "queue",
            f"{queue['pending'] + queue['active']:,} to send, {queue['deferred']:,} deferred, {queue['held']:,} held",
            "empty" if oldest is None else f"oldest {age(oldest)}",
        ],
        [
            "images",
            f"{instances['received']:,} received, {instances['stored']:,} stored, {instances['evicted']:,} evicted",
            size(instances["stored_bytes"]),
        ],
        *_web_door(found),
        *_savings(found),
        *_backfill(found),
        *_retention_review(found),
        *_planned_work(found),
    ]


def _planned_work(found: Status) -> list[list[Cell]]:
    """Maintenance that is not over; what it explains is not notified."""
    return [
        [
            "maintenance",
            f"{moment_text(from_iso(each['from']))} to {moment_text(from_iso(each['to']))}",
            printable(each["reason"]),
        ]
        for each in found.get("maintenance", [])
    ]


def _web_door(found: Status) -> list[list[Cell]]:
    """The door for DICOMweb, where it is open."""
    door = found.get("dicomweb")
    if not door:
        return []
    return [
        ["DICOMweb", f"port {door['port']}{' (TLS)' if door['tls'] else ''}", amount(door["connections"], "connection")]
    ]


def _savings(found: Status) -> list[list[Cell]]:
    """What compression has kept off the lines."""
    destinations = found["destinations"].items()
    saved = {name: each.get("saved_bytes", 0) for name, each in destinations}
    shown = [f"{size(octets)} to {name}" for name, octets in saved.items() if octets > 0]
    rows: list[list[Cell]] = [["compressed", f"{', '.join(shown)} less than received", "saved"]] if shown else []
    slow = [name for name, each in destinations if each.get("compression_outpaced_at")]
    return rows + (
        [["not compressed", f"to {', '.join(slow)}: the line is faster than the encoders", ""]] if slow else []
    )


def _backfill(found: Status) -> list[list[Cell]]:
    """The progress of reading headers after an upgrade, until it is complete."""
    progress = found.get("backfill")
    if not progress or progress["finished_at"] is not None:
        return []
    return [["headers", f"{progress['read']:,} of {progress['of']:,} read after the upgrade", "once"]]


def _retention_review(found: Status) -> list[list[Cell]]:
    """How far new rules of retention have been applied to what is here, until they are."""
    place = found.get("retention_review")
    if not place or place["is_done"]:
        return []
    return [["retention", f"{place['reviewed']:,} of {place['of']:,} reviewed by the new rules", "once"]]


def _forecast(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    return span(seconds) if seconds >= 1 else "-"


def _ago(moment: str | None, now: float) -> str:
    return "never" if moment is None else f"{span(now - from_iso(moment))} ago"
