"""`edge notify`: whom the gateway tells, what still waits for them, and does it work."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from edge import __version__
from edge.cli.session import Session, config_option, json_option, login
from edge.cli.studies import local
from edge.cli.tables import Cell, print_json, print_table, say
from edge.errors import EdgeError
from edge.messaging import Channel, notice
from edge.messaging.channels import build
from edge.monitor import heartbeat
from edge.store import outbox
from edge.store.outbox import Message
from edge.text import counted


@click.group(short_help="Whom it tells: try a channel, list what waits, send again.")
@config_option
def notify() -> None:
    """Whom the gateway tells of trouble: try a channel, list what still waits, send it again or discard it."""


@notify.command("test", short_help="Send a test notice.")
@click.argument("channel")
@config_option
@click.pass_obj
def test(session: Session, channel: str) -> None:
    """Send a test notice to a channel now, and say in words what went wrong.

    CHANNEL is the section's name, such as email.mimso: each of its recipients is tried. Nothing waits and nothing is
    tried again. For heartbeat the oldest one that waits is sent. Exit 1 when one of them did not take it.

    \b
    Example:  edge notify test email.mimso
    """
    channels = build(session.config, session.directory)
    named = [name for name in channels if channel in (name, name.partition("/")[0])]
    if not named:
        known = ", ".join(dict.fromkeys(name.partition("/")[0] for name in channels)) or "none is configured"
        raise click.BadParameter(f'there is no channel "{channel}"; there are: {known}')
    if channel == heartbeat.CHANNEL:
        message = _oldest_heartbeat(session)
        if message is None:
            say("heartbeat: nothing waits, so every heartbeat was taken." if session.has_catalog else NEVER_RAN)
            return
    else:
        message = _example(session)
    failed = [name for name in named if not _try(name, channels[name], message)]
    if failed:
        raise SystemExit(1)


NEVER_RAN = "heartbeat: none was made yet; the gateway has never run with this configuration."


def _try(name: str, channel: Channel, message: Message) -> bool:
    try:
        channel.deliver(message)
    except EdgeError as error:
        say(f"{name}: {error}.", "bold red")
        return False
    finally:
        channel.close()
    say(f"{name}: delivered.", "bold green")
    return True


def _example(session: Session) -> Message:
    site, now = session.config.site, time.time()
    return Message(0, "", notice.TEST, now, notice.example(site.id, site.name, __version__, now), 0)


def _oldest_heartbeat(session: Session) -> Message | None:
    """Heartbeats are numbered, so none is made up. The centre knows one that comes again."""
    if not session.has_catalog:
        return None
    with session.quiet_catalog() as conn:
        return next(iter(outbox.oldest(conn, heartbeat.CHANNEL, 1)), None)


@notify.command("list", short_help="List what waits to be told.")
@click.option("--limit", default=50, type=click.IntRange(1, 100_000), show_default=True, help="At most so many.")
@json_option
@config_option
@click.pass_obj
def list_messages(session: Session, limit: int, as_json: bool) -> None:
    """List the messages that no channel has taken yet, the oldest first, and those that it refuses for good.

    A waiting one goes by itself. One that is "parked" was refused for what it is: send it again, or discard it.

    \b
    Example:  edge notify list
    """
    with session.catalog() as conn:
        found = outbox.lines(conn, limit)
    if as_json:
        print_json([asdict(line) for line in found])
    elif not found:
        say("Nothing waits: every message was taken.")
    else:
        rows: list[list[Cell]] = [
            [line.channel, line.kind, local(line.at), _state(line), line.attempts, line.last_error] for line in found
        ]
        print_table(["channel", "kind", "arose", "state", "tries", "last error"], rows)


def _state(line: outbox.QueuedMessage) -> str:
    return "waiting" if line.parked_at is None else "parked"


@notify.command("retry", short_help="Send parked messages again.")
@click.argument("channel")
@config_option
@click.pass_obj
def retry(session: Session, channel: str) -> None:
    """Send a channel's parked messages again. What is only waiting needs no help.

    \b
    Example:  edge notify retry webhook.chat
    """
    moved = _tell(session, "notify-retry", channel)
    say(f"{counted(moved, 'message')} of {channel} will be sent again.")


@notify.command("discard", short_help="Give up a channel's messages.")
@click.argument("channel")
@click.option("--waiting", is_flag=True, help="Also those that wait, such as of a channel that is gone.")
@config_option
@click.pass_obj
def discard(session: Session, channel: str, waiting: bool) -> None:
    """Give up a channel's parked messages: nobody will get them.

    \b
    Example:  edge notify discard webhook.chat
    """
    moved = _tell(session, "notify-discard", channel, waiting=waiting, who=login())
    say(f"{counted(moved, 'message')} of {channel} discarded.")


def _tell(session: Session, command: str, channel: str, waiting: bool = False, who: str = "") -> int:
    """By the daemon where it runs, so that it goes to work at once; else in the catalog."""
    if session.daemon_runs:
        return int(session.ask(command, channel=channel, waiting=waiting, who=who)["moved"])
    if command == "notify-retry":
        return session.change(lambda conn: outbox.unpark(conn, channel))
    return session.change(lambda conn: outbox.discard(conn, channel, parked_only=not waiting))
