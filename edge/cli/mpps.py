"""`edge mpps`: performed procedure steps, and what the RIS still has to get of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from edge.cli.deciding import optional_reason_option, reason_option
from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Cell, Columns, local_time, print_json, print_table, say
from edge.dicom.items import Attributes, decode_items
from edge.dicom.json import to_json
from edge.errors import EdgeError
from edge.model.dictionary import keyword_for_tag
from edge.store import performed_steps, step_images
from edge.store.listing import ListPart
from edge.store.performed_steps import ListedStep, StepMessageRow
from edge.text import amount

_COLUMNS: Columns[ListedStep] = {
    "ID": lambda each: each.id,
    "state": lambda each: each.state_word,
    "from": lambda each: each.calling_ae,
    "begun": lambda each: local_time(each.created_at),
    "images": lambda each: each.named,
    "missing": lambda each: each.missing,
    "open": lambda each: each.open,
    "held": lambda each: each.held,
    "reason": lambda each: each.last_error,
}
_TO = click.option("--destination", default="", metavar="NAME", help="Only for this target.  [default: every one]")


@click.group(short_help="List performed procedure steps, and decide about refused ones.")
def mpps() -> None:
    """Show the procedure steps that modalities have reported (`[modality] services` with "mpps").

    The messages of a step go to each target of `[mpps] to` in order. What a target refuses permanently is held with
    all that follows it, until a person retries or cancels it; other steps go on.
    """


@mpps.command("list", short_help="List steps, unfinished first.")
@click.option("--open", "only_open", is_flag=True, help="Only those of which a target lacks something.")
@part_options()
@json_option
@click.pass_obj
def list_steps(session: CommandSession, only_open: bool, part: ListPart, as_json: bool) -> None:
    """List steps: those first of which a target lacks something, then the newest.

    \b
    Examples:  edge mpps list --open
               edge mpps list --json | jq '.[] | select(.held > 0)'
    """
    with session.catalog() as conn:
        found = read_part(performed_steps.list_steps(conn, only_open=only_open), part)
    print_part(found, _COLUMNS, "No modality has reported a performed procedure step.", as_json=as_json)


@mpps.command("show", short_help="Show a step, its messages and their answers.")
@click.argument("number", metavar="ID", type=int)
@json_option
@click.pass_obj
def show_step(session: CommandSession, number: int, as_json: bool) -> None:
    """Show a step with its messages, their data sets, and how each target has answered. It shows patient data.

    \b
    Examples:  edge mpps show 12
               edge mpps show 12 --json | jq '.messages[].data_set'
    """
    with session.catalog() as conn:
        step, messages = performed_steps.find_step(conn, number), performed_steps.list_step_messages(conn, number)
        wait = step_images.find_notification_wait(conn, number) if session.config.mpps.ian else None
    if step is None:
        raise EdgeError(f"there is no performed step {number}")
    if as_json:
        found = {"step": step, "messages": [_message_json(each) for each in messages]}
        return print_json({**found, "notification": wait and asdict(wait)})
    say(f"Performed step {step.id}, {step.state_word}, from {step.calling_ae}: {step.sop_instance_uid}")
    say(f"study {step.study_uid}, accession {step.accession_number or '-'}")
    say(f"{amount(step.named, 'image')} named, {step.missing} not here")
    if wait is not None:
        waits = f"{wait.missing} to come, {wait.open} on the way to an archive, {wait.held} held"
        say(f"An availability notification waits for images: {waits}", "yellow")
    columns = ["message", "received", "target", "state", "status", "tries", "reason"]
    print_table(columns, map(_message_row, messages))
    for each in {row.message_id: row for row in messages}.values():
        say("")
        say(f"{each.kind}:", "bold")
        for line in attribute_lines(decode_items(each.body, each.transfer_syntax_uid)):
            say(line)


def attribute_lines(data_set: Attributes, indent: str = "  ") -> Iterator[str]:
    """A data set for people: an attribute a line, by its keyword; those of an item stand below their sequence."""
    for tag, element in sorted(data_set.items()):
        word = keyword_for_tag(tag) or f"({tag >> 16:04x},{tag & 0xFFFF:04x})"
        value = "\\".join(element.values) if element.vr != "SQ" else "" if element.items else "no items"
        yield f"{indent}{word}: {value}".rstrip()
        for number, item in enumerate(element.items, 1):
            yield f"{indent}  item {number}"
            yield from attribute_lines(item, f"{indent}    ")


def _message_row(each: StepMessageRow) -> list[Cell]:
    status = "" if each.status is None else f"{each.status:04X}"
    received = local_time(each.received_at)
    return [each.kind, received, each.destination, each.state, status, each.tries, each.peer_text or each.last_error]


def _message_json(each: StepMessageRow) -> dict[str, Any]:
    status = None if each.status is None else f"{each.status:04X}"
    found = {"message": each.kind, "destination": each.destination, "state": each.state, "status": status}
    return {
        **found,
        "tries": each.tries,
        "last_error": each.last_error,
        "peer_text": each.peer_text,
        "data_set": _data_set(each),
    }


def _data_set(each: StepMessageRow) -> dict[str, Any]:
    """The message's data set in the DICOM JSON model (PS3.18 annex F)."""
    return to_json(decode_items(each.body, each.transfer_syntax_uid))


@mpps.command("retry", short_help="Send messages of steps again, also refused ones.")
@click.argument("ids", metavar="ID...", type=int, nargs=-1, required=True)
@_TO
@optional_reason_option
@click.pass_obj
def retry_steps(session: CommandSession, ids: tuple[int, ...], destination: str, reason: str) -> None:
    """Send the steps' messages again now, those that were refused among them.

    \b
    Example:  edge mpps retry 12 --reason "the RIS knows the patient now"
    """
    answer = session.change("mpps-retry", ids=list(ids), destination=destination, reason=reason)
    _report(answer["moved"], "queued to be sent")


@mpps.command("cancel")
@click.argument("ids", metavar="ID...", type=int, nargs=-1, required=True)
@_TO
@reason_option
@click.pass_obj
def cancel_steps(session: CommandSession, ids: tuple[int, ...], destination: str, reason: str) -> None:
    """Decide that the rest of these steps is not sent.

    \b
    Example:  edge mpps cancel 12 --reason "entered in the RIS by hand"
    """
    answer = session.change("mpps-cancel", ids=list(ids), destination=destination, reason=reason)
    _report(answer["moved"], "cancelled")


def _report(moved: int, done: str) -> None:
    if not moved:
        raise EdgeError("nothing has changed: these steps have no message that waits or is held")
    say(f"{amount(moved, 'message')} {done}.", "green")
