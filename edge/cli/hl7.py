"""`edge hl7`: messages that came over HL7, those that wait for a person, and those that go on to relays.

The output has patient data, for people who may read the data directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from edge.cli.deciding import optional_reason_option, reason_option
from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Cell, Columns, local_time, print_facts, print_json, say
from edge.errors import EdgeError
from edge.store import hl7_messages, relays
from edge.store.hl7_messages import ListedMessage, MessageState
from edge.store.hl7_text import describe_notes, describe_outcome
from edge.store.listing import ListPart
from edge.text import printable

_NUMBER = click.argument("number", metavar="ID", type=int)
_NUMBERS = click.argument("numbers", metavar="ID...", type=int, nargs=-1, required=True)


def _describe(each: ListedMessage) -> str:
    repeats = f"came {each.repeats + 1} times" if each.repeats else ""
    return "; ".join(filter(None, (describe_outcome(each), describe_notes(each.notes), repeats)))


_COLUMNS: Columns[ListedMessage] = {
    "ID": lambda each: each.id,
    "received": lambda each: local_time(each.received_at),
    "feed": lambda each: each.feed,
    "event": lambda each: each.event,
    "control ID": lambda each: each.control_id,
    "state": lambda each: each.state,
    "why": _describe,
    "relays": lambda each: "; ".join(each.relays),
}
_RELAYED: Columns[relays.ListedRelay] = {
    "ID": lambda each: each.message_id,
    "relay": lambda each: each.relay,
    "received": lambda each: local_time(each.received_at),
    "event": lambda each: each.event,
    "state": lambda each: each.state,
    "tries": lambda each: each.tries,
    "answer": lambda each: each.code,
    "receiver's words": lambda each: each.peer_text,
}


@click.group(short_help="List, show and decide about HL7 messages.")
def hl7() -> None:
    """Show what came over HL7 ([feed.*]), and decide about what waits.

    A message that contradicts what is known is parked, with all later messages of that patient. `replay` applies it
    once the cause is removed; `discard` decides that it is not applied. What a relay's receiver refuses is held:
    `release` sends it again, `cancel` decides that it does not go.
    """


@hl7.command("list", short_help="List messages, the latest first.")
@click.option("--state", type=click.Choice([each.value for each in MessageState]), help="Only these.")
@click.option("--note", default="", metavar="CODE", help="Only those with this note, such as merged-id-used.")
@click.option("--feed", default="", metavar="NAME", help="Only of this feed.")
@click.option("--relay", "by_relay", is_flag=True, help="What waits or is held for relays, in order.")
@part_options()
@json_option
@click.pass_obj
def list_messages(
    session: CommandSession, state: str | None, note: str, feed: str, by_relay: bool, part: ListPart, as_json: bool
) -> None:
    """List HL7 messages, the latest first.

    \b
    Examples:  edge hl7 list --state parked
               edge hl7 list --note merged-id-used
               edge hl7 list --relay
    """
    with session.catalog() as conn:
        if by_relay:
            relayed = read_part(relays.list_relayed(conn), part)
            return print_part(relayed, _RELAYED, "Nothing waits for a relay.", as_json=as_json)
        found = read_part(hl7_messages.list_messages(conn, state=state or "", note=note, feed=feed), part)
    none = "No such HL7 message." if state or note or feed else "No HL7 message has come."
    return print_part(found, _COLUMNS, none, as_json=as_json, json_of=_message_json)


def _message_json(each: ListedMessage) -> dict[str, Any]:
    return {**asdict(each), "notes": [note for note in each.notes.split(",") if note]}


@hl7.command("show", short_help="Show one message with its segments.")
@_NUMBER
@json_option
@click.pass_obj
def show_message(session: CommandSession, number: int, as_json: bool) -> None:
    """Show one message: what became of it, why, and its segments.

    \b
    Example:  edge hl7 show 12
    """
    with session.catalog() as conn:
        found, kept = hl7_messages.find_message(conn, number), hl7_messages.read_kept(conn, number)
    if found is None or kept is None:
        raise EdgeError(f"there is no HL7 message {number}; `edge hl7 list` names them")
    lines = _lines_of(session, kept.body, found.feed)
    if as_json:
        print_json({**_message_json(found), "segments": lines})
        return
    facts: list[tuple[str, Cell]] = [
        ("received", local_time(found.received_at)),
        ("feed", f"{found.feed} ({found.address})"),
        ("event", found.event),
        ("control ID", found.control_id),
        ("state", found.state),
        ("why", describe_outcome(found)),
        ("notes", describe_notes(found.notes)),
        ("came again", f"{found.repeats} times" if found.repeats else ""),
        ("relays", "; ".join(found.relays)),
        ("decided", " ".join(filter(None, (found.decided_by, found.decision)))),
    ]
    print_facts([fact for fact in facts if fact[1] not in ("", None)])
    say("")
    for line in lines or ["Its bytes are not kept any more."]:
        say(line)


def _lines_of(session: CommandSession, body: bytes | None, feed: str) -> list[str]:
    """The segments as text; long ones are cut."""
    from edge.hl7.charset import decode_message  # noqa: PLC0415
    from edge.hl7.message import parse_message  # noqa: PLC0415

    if body is None:
        return []
    configured = session.config.feeds.get(feed)
    message = parse_message(body, configured.charset if configured else "")
    declared = message.header.raw(18).split("~") if message.header else []
    text = decode_message(body, declared, configured.charset if configured else "").text
    lines = [line for line in text.replace("\n", "\r").split("\r") if line.strip()]
    return [printable(line if len(line) <= 2000 else f"{line[:2000]}... ({len(line):,} characters)") for line in lines]


def _decide(session: CommandSession, command: str, number: int, **fields: object) -> dict[str, Any]:
    return session.change(command, id=number, charsets=session.config.feed_charsets, **fields)


def _apply_each(session: CommandSession, command: str, numbers: Sequence[int], reason: str) -> None:
    """Decide about parked messages one after the other; ends with 1 where one stays parked."""
    still_parked = 0
    for number in numbers:
        answer = _decide(session, command, number, reason=reason)
        if answer["state"] == MessageState.PARKED.value:
            say(f"message {number} is still parked: {answer['reason']}.", "yellow")
            still_parked += 1
        else:
            say(f"message {number}: {answer['state']}.")
    if still_parked:
        raise SystemExit(1)


@hl7.command("replay", short_help="Apply parked messages again.")
@_NUMBERS
@optional_reason_option
@click.pass_obj
def replay(session: CommandSession, numbers: tuple[int, ...], reason: str) -> None:
    """Apply parked messages again, and then those that waited behind them.

    Of a message whose character set was wrong the texts are read again, once [feed.*] charset is right.

    \b
    Example:  edge hl7 replay 12 --reason "the other merge was undone"
    """
    _apply_each(session, "hl7-replay", numbers, reason)


@hl7.command("discard", short_help="Decide that parked messages are not applied.")
@_NUMBERS
@reason_option
@click.pass_obj
def discard(session: CommandSession, numbers: tuple[int, ...], reason: str) -> None:
    """Decide that parked messages are not applied. Those that waited behind them are.

    \b
    Example:  edge hl7 discard 12 --reason "the merge was a mistake"
    """
    _apply_each(session, "hl7-discard", numbers, reason)


_RELAY = click.option("--relay", default="", metavar="NAME", help="Only for this relay.")


@hl7.command("release", short_help="Send held messages to their relay again.")
@_NUMBERS
@_RELAY
@reason_option
@click.pass_obj
def release(session: CommandSession, numbers: tuple[int, ...], relay: str, reason: str) -> None:
    """Send messages again that a relay's receiver has refused.

    \b
    Example:  edge hl7 release 12 --reason "the archive knows the patient now"
    """
    for number in numbers:
        _decide(session, "hl7-release", number, relay=relay, reason=reason)
        say(f"message {number} is sent again.")


@hl7.command("cancel", short_help="Decide that messages do not go to a relay.")
@_NUMBERS
@_RELAY
@reason_option
@click.pass_obj
def cancel(session: CommandSession, numbers: tuple[int, ...], relay: str, reason: str) -> None:
    """Decide that messages do not go to a relay; later ones of their patients follow.

    \b
    Example:  edge hl7 cancel 12 13 --relay archive --reason "entered by hand"
    """
    for number in numbers:
        _decide(session, "hl7-cancel", number, relay=relay, reason=reason)
        say(f"message {number} is not sent.")
