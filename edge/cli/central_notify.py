"""`edge central notify`: the messages that the centre could not deliver yet, or that were refused permanently."""

from __future__ import annotations

import click

from edge.central import notifications
from edge.cli.central_session import CentralGroup, CentralSession
from edge.cli.notify import print_messages
from edge.cli.parts import part_options, rows_for
from edge.cli.session import json_option, login
from edge.cli.tables import say
from edge.store import outbox
from edge.store.listing import ListPart
from edge.text import amount


@click.group(cls=CentralGroup)
def notify() -> None:
    """Manage the centre's notifications: list, resend, discard."""


@notify.command("list", short_help="List waiting and parked messages.")
@part_options()
@json_option
@click.pass_obj
def list_messages(session: CentralSession, part: ListPart, as_json: bool) -> None:
    """List the messages that wait for their channel, oldest first, and those that it refused permanently.

    A "waiting" message is sent automatically. A "parked" message was refused: resend it, or discard it.

    \b
    Example:  edge central notify list
    """
    found = session.read(lambda conn, _config, _now: outbox.lines(conn, rows_for(part)))
    print_messages(part, found, as_json)


@notify.command()
@click.argument("channel")
@click.pass_obj
def retry(session: CentralSession, channel: str) -> None:
    """Resend the parked messages of a channel.

    \b
    Example:  edge central notify retry email.mimso/mimso@example.org
    """
    count = session.change(lambda conn: notifications.retry_parked(conn, channel, login()))
    say(f"{amount(count, 'message')} of {channel} will be sent again.")


@notify.command()
@click.argument("channel")
@click.option("--waiting", is_flag=True, help="Also waiting messages, for a channel that was removed for example.")
@click.pass_obj
def discard(session: CentralSession, channel: str, waiting: bool) -> None:
    """Discard the parked messages of a channel: they are not sent.

    \b
    Example:  edge central notify discard email.mimso/mimso@example.org
    """
    count = session.change(lambda conn: notifications.discard_messages(conn, channel, login(), parked_only=not waiting))
    say(f"{amount(count, 'message')} of {channel} discarded.")
