"""`edge notify`: test notification channels, and manage their messages."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from edge.cli.parts import cut_part, part_options, print_part, rows_for
from edge.cli.session import CommandSession, json_option, login
from edge.cli.tables import Columns, fail_unless, local_time, print_json, say
from edge.config.channels import HEARTBEAT_CHANNEL
from edge.errors import EdgeError
from edge.messaging import Channel, notice
from edge.messaging.channels import build_channels
from edge.monitor import announcement
from edge.store import outbox
from edge.store.listing import ListPart
from edge.store.outbox import Message
from edge.text import amount, iso, local_day


@click.group(short_help="Manage notification channels: test, list, resend.")
def notify() -> None:
    """Manage notification channels: test a channel, announce what is to come; list, resend or discard messages."""


@notify.command("test", short_help="Send a test notice.")
@click.argument("channel")
@click.pass_obj
def test(session: CommandSession, channel: str) -> None:
    """Send a test notice to a channel now, and report what failed.

    CHANNEL is the name of its section, such as email.mimso; each recipient gets the notice. Nothing is queued or
    retried. For "heartbeat" the oldest waiting heartbeat is sent. Exit 1 when a recipient did not accept it.

    \b
    Example:  edge notify test email.mimso
    """
    channels = build_channels(session.config, session.directory)
    named = [name for name in channels if channel in (name, name.partition("/")[0])]
    if not named:
        known = ", ".join(dict.fromkeys(name.partition("/")[0] for name in channels)) or "none is configured"
        raise click.BadParameter(f'there is no channel "{channel}"; there are: {known}')
    if channel == HEARTBEAT_CHANNEL:
        message = _oldest_heartbeat(session)
        if message is None:
            say("heartbeat: nothing waits; every heartbeat was accepted." if session.has_catalog else _NEVER_RAN)
            return
    else:
        message = _example(session)
    failed = [name for name in named if not _try(name, channels[name], message)]
    fail_unless(not failed)


_NEVER_RAN = "heartbeat: nothing to send; the gateway has never run with this configuration."


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


def _example(session: CommandSession) -> Message:
    site, now = session.config.site, time.time()
    return Message(0, "", notice.TEST, now, notice.example(site.id, site.name, now), 0)


def _oldest_heartbeat(session: CommandSession) -> Message | None:
    """Find the oldest waiting heartbeat. Heartbeats are numbered; the centre recognizes a repeated one."""
    if not session.has_catalog:
        return None
    with session.quiet_catalog() as conn:
        return next(iter(outbox.oldest(conn, HEARTBEAT_CHANNEL, 1)), None)


@notify.command("tell", short_help="Announce new equipment, storage or requirements.")
@click.option("--kind", required=True, type=click.Choice(announcement.ANNOUNCED_KINDS), help="What it is about.")
@click.option("--from", "from_date", metavar="DATE", help="From when on, such as 2027-03-01.  [default: today]")
@click.option("--expects", default="", metavar="AMOUNT", help='What it adds, such as "200GB/month" or "5GB/day".')
@click.argument("text")
@json_option
@click.pass_obj
def tell(session: CommandSession, kind: str, from_date: str | None, expects: str, text: str, as_json: bool) -> None:
    """Announce what is to come: a new modality, more storage, a requirement.

    TEXT goes to every notification channel and to the central office, once, with its time and your name; the centre
    adds it to the site's equipment and capacity. It must name no patient.

    \b
    Example:  edge notify tell --kind equipment --from 2027-03-01 \\
                  --expects 200GB/month "second CT in room 4"
    """
    fields = {"kind": kind, "from_date": from_date or local_day(time.time()), "expects": expects, "said": text}
    if session.daemon_runs:
        answer = session.ask("announce", **fields)
    else:
        session.require_catalog()
        from edge.daemon.changes import announce_to_centre  # noqa: PLC0415 - with all that can be changed

        with session.store() as database:
            answer = announce_to_centre(database, session.config, {**fields, "who": login()})
    if as_json:
        print_json({"id": answer["id"], "at": iso(answer["at"]), "channels": answer["channels"]})
    elif answer["channels"]:
        say(f"Announced at {local_time(answer['at'])} by {amount(len(answer['channels']), 'channel')}.", "bold green")
    else:
        say("Recorded, but no channel is configured: nobody receives it.", "yellow")
    fail_unless(answer["channels"])


@notify.command("list", short_help="List waiting and parked messages.")
@part_options()
@json_option
@click.pass_obj
def list_messages(session: CommandSession, part: ListPart, as_json: bool) -> None:
    """List the messages that wait for their channel, oldest first, and those that it refused permanently.

    A "waiting" message is sent automatically. A "parked" message was refused: resend it, or discard it.

    \b
    Example:  edge notify list
    """
    with session.catalog() as conn:
        found = outbox.lines(conn, rows_for(part))
    print_messages(part, found, as_json)


_COLUMNS: Columns[outbox.QueuedMessage] = {
    "channel": lambda each: each.channel,
    "kind": lambda each: each.kind,
    "time": lambda each: local_time(each.at),
    "state": lambda each: "waiting" if each.parked_at is None else "parked",
    "attempts": lambda each: each.attempts,
    "last error": lambda each: each.last_error,
}


def print_messages(part: ListPart, read: Sequence[outbox.QueuedMessage], as_json: bool) -> None:
    """A part of the messages of an outbox, a site's or the centre's."""
    print_part(cut_part(read, part), _COLUMNS, "No message waits: every message was delivered.", as_json=as_json)


@notify.command("retry", short_help="Resend parked messages.")
@click.argument("channel")
@click.pass_obj
def retry(session: CommandSession, channel: str) -> None:
    """Resend the parked messages of a channel. Waiting messages are sent automatically.

    \b
    Example:  edge notify retry webhook.chat
    """
    moved = session.change("notify-retry", channel=channel)["moved"]
    say(f"{amount(moved, 'message')} of {channel} will be sent again.")


@notify.command("discard", short_help="Discard parked messages.")
@click.argument("channel")
@click.option("--waiting", is_flag=True, help="Also waiting messages, for a channel that was removed for example.")
@click.pass_obj
def discard(session: CommandSession, channel: str, waiting: bool) -> None:
    """Discard the parked messages of a channel: they are not sent.

    \b
    Example:  edge notify discard webhook.chat
    """
    moved = session.change("notify-discard", channel=channel, waiting=waiting)["moved"]
    say(f"{amount(moved, 'message')} of {channel} discarded.")
