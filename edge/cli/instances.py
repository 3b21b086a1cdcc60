"""`edge instances`: images that wait for a decision, or are missing or damaged: list, show, export, release, discard.

`show` and `export` give patient data to people who may read the data directory; the ledger records each access.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edge.cli.deciding import overwrite_option, reason_option, split_batches, warn
from edge.cli.parts import cut_part, part_options, rows_for, say_part
from edge.cli.session import CommandSession, json_option, login
from edge.cli.studies import format_states, instance_json
from edge.cli.tables import Cell, fail_unless, local_time, print_facts, print_json, print_table, say
from edge.console import instance_header
from edge.dicom.uids import name_of
from edge.errors import EdgeError, Unreadable
from edge.model import DeliveryState, InstanceState, ReasonCode
from edge.storage.release import Releaser
from edge.store import kept_files, queries, undecided
from edge.store.database import Transaction
from edge.store.listing import ListPart
from edge.store.mismatches import Mismatch, find_mismatches
from edge.store.patients import words_for
from edge.store.queries import Instance
from edge.text import amount, mark_guess, printable, size

#: The states and reasons that `list` shows.
_STATES = (InstanceState.CONFLICT, InstanceState.QUARANTINED, InstanceState.LOST)
_REASONS = (ReasonCode.UNROUTABLE, ReasonCode.MISMATCH)
_DEFAULT = [each.value for each in (*_STATES, *_REASONS)]
_MISMATCH = ReasonCode.MISMATCH.value
_CHOICES = [*_DEFAULT, InstanceState.DISCARDED.value]
#: Bytes that are shown of an unreadable data set.
_DUMPED = 256


@click.group(short_help="Manage images that need a decision.")
def instances() -> None:
    """Manage images that need a person's decision: conflicts, mismatches, unroutable and quarantined images.

    Missing and damaged images are listed, too.
    """


# -- listing -----------------------------------------------------------------------------------------------------------


@instances.command("list", short_help="List these images with reason and file.")
@click.option("--state", type=click.Choice(_CHOICES), help="Only this kind of exception.")
@part_options()
@json_option
@click.pass_obj
def list_instances(session: CommandSession, state: str | None, part: ListPart, as_json: bool) -> None:
    """List images that need a decision, or are missing or damaged, with reason and file.

    \b
    Example:  edge instances list --state quarantined
    """
    with session.catalog() as conn:
        asked, limit = [state] if state else _DEFAULT, rows_for(part)
        whose = {each.instance.id: each for each in find_mismatches(conn, limit)} if _MISMATCH in asked else {}
        found = {each.id: each for one in asked for each in _list_of(conn, one, limit)}
        found |= {number: each.instance for number, each in whose.items()}
    cut = cut_part(list(found.values())[:limit], part)
    shown = cut.rows
    session.record_access(sorted({each.study_number for each in whose.values()}), "edge instances list")
    if as_json:
        print_json([instance_json(each) | _mismatch_json(whose.get(each.id)) for each in shown])
        return say_part(cut, as_json=True)
    columns = ["id", "state", "received", "from", "reason", "study UID", "SOP instance UID", "file"]
    print_table(columns, [_row(each, session.data_dir / "spool", whose.get(each.id)) for each in shown])
    say(f"{amount(len(shown), 'image')} shown.")
    return say_part(cut, as_json=False)


def _list_of(conn: Transaction, state: str, limit: int) -> list[Instance]:
    if state == InstanceState.DISCARDED.value:
        return undecided.list_discarded(conn, limit)
    if state in [each.value for each in _REASONS]:
        return undecided.list_held(conn, ReasonCode(state), limit)
    return queries.list_exceptions(conn, InstanceState(state), limit)


def _describe_mismatch(found: Mismatch) -> str:
    """Name both patients; the page of the study lists all differences."""
    mine, theirs = (f"{each.name} ({each.patient_id})" for each in (found.patient, found.study_patient))
    return f"another {words_for(found.differs_in)}: {mine}, the study's is {theirs}"


def _mismatch_json(found: Mismatch | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "patient": asdict(found.patient),
        "study_patient": asdict(found.study_patient),
        "differs_in": list(found.differs_in),
    }


def _row(each: Instance, spool: Path, mismatch: Mismatch | None) -> list[Cell]:
    held = [one for one in each.deliveries.values() if one.state is DeliveryState.HELD]
    codes = {one.reason_code.value for one in held if one.reason_code in _REASONS}
    if mismatch is not None:
        codes.add(_MISMATCH)
    why = [each.reason] if each.reason else sorted({one.reason for one in held})
    return [
        str(each.id),
        ", ".join(sorted({each.state.value} - {"stored"} | codes)),
        local_time(each.received_at),
        f"{each.calling_ae} at {each.address}",
        "; ".join([_describe_mismatch(mismatch)] if mismatch is not None else why),
        each.study_uid,
        each.sop_instance_uid,
        str(spool / each.path),
    ]


@instances.command("show", short_help="Show an image and its other versions.")
@click.argument("numbers", metavar="ID...", type=int, nargs=-1, required=True)
@json_option
@click.pass_obj
def show(session: CommandSession, numbers: tuple[int, ...], as_json: bool) -> None:
    """Show images: origin, state, header, and what a release would overwrite.

    Includes the other versions under the same SOP Instance UID. The ledger records the access.

    \b
    Example:  edge instances show 12
    """
    with session.catalog() as conn:
        groups = {each[0].id: each for each in (_versions(conn, number) for number in numbers)}
        found = {each.id: each for versions in groups.values() for each in versions}
    session.change("instance-viewed", ids=list(found), why="edge instances show")  # before anything is shown
    if as_json:
        print_json([instance_json(each) | _header_json(session, each) for each in found.values()])
        return
    for versions in groups.values():
        _print(session, versions)
    for number in numbers:
        for line in undecided.overwrites(list(found.values()), number):
            say(line, "bold red")


def _versions(conn: Transaction, number: int) -> list[Instance]:
    found = queries.list_object_versions(conn, number)
    if not found:
        raise EdgeError(f"there is no instance {number}; `edge instances list` shows those that wait")
    return found


def _print(session: CommandSession, versions: Sequence[Instance]) -> None:
    """Print all that is kept under one SOP Instance UID: each version's facts, then their headers side by side."""
    headers = []
    for each in versions:
        _print_facts(each)
        attributes, trouble = _header(session, each)
        headers.append(attributes)
        for line in trouble.splitlines():
            say(line, "yellow")
        say("")
    if len(versions) == 1:
        print_table(["attribute", "value"], list(headers[0].items()))
        return
    rows = _compare(headers)
    print_table(["attribute", *(f"instance {each.id}" for each in versions), "compared"], rows)
    if all(headers) and not any(row[-1] for row in rows):
        say("These attributes are the same: the objects differ in others, in their pixels or in how they are encoded.")


def _compare(headers: Sequence[Mapping[str, str]]) -> list[list[Cell]]:
    """An attribute a row, with its value in each version; what differs comes first, and is marked."""
    names = (name for name in instance_header.COMPARED if any(name in each for each in headers))
    found = [(name, [each.get(name, "") for each in headers]) for name in names]
    rows: list[list[Cell]] = [[name, *texts, "differs" if len(set(texts)) > 1 else None] for name, texts in found]
    return sorted(rows, key=lambda row: row[-1] is None)


def _print_facts(each: Instance) -> None:
    facts: list[tuple[str, Cell]] = [
        ("instance", str(each.id)),
        ("state", _state_of(each)),
        ("reason", each.reason),
        ("destinations", format_states(each) or "none"),
        ("kind", name_of(each.sop_class_uid)),
        ("syntax", name_of(each.transfer_syntax_uid)),
        ("received", f"{local_time(each.received_at)} from {each.calling_ae} at {each.address}"),
        ("size", size(each.size)),
        ("SHA-256", each.sha256),
        ("SOP instance", each.sop_instance_uid),
    ]
    print_facts(facts)


def _state_of(each: Instance) -> str:
    if each.released_as is not None:
        return f"released, as instance {each.released_as}"
    if each.deleted_at is not None:
        return f"discarded {local_time(each.discarded_at)}, its file deleted {local_time(each.deleted_at)}"
    if each.discarded_at is not None:
        return f"discarded {local_time(each.discarded_at)}, its file is still kept"
    return each.state.value


def _header_json(session: CommandSession, each: Instance) -> dict[str, Any]:
    attributes, trouble = _header(session, each)
    return {"header": attributes, "unreadable": trouble or None}


def _header(session: CommandSession, each: Instance) -> tuple[dict[str, str], str]:
    """Read the header: its attributes, or why it cannot be read, with the first bytes."""
    path = session.data_dir / "spool" / each.path
    try:
        found = instance_header.read_attributes(path, each.transfer_syntax_uid, instance_header.COMPARED)
    except OSError as error:
        return {}, f"there is no file: {error.strerror}"
    except Unreadable as error:
        return {}, f"the header cannot be read: {error}; the first bytes:\n{instance_header.dump(path, _DUMPED)}"
    if not found:
        return {}, f"the header has no known attribute; the first bytes:\n{instance_header.dump(path, _DUMPED)}"
    shown = (name for name in instance_header.COMPARED if name in found)
    return {name: printable("\\".join(map(mark_guess, found[name]))) for name in shown}, ""


@instances.command("export", short_help="Copy an image to a directory.")
@click.argument("number", metavar="ID", type=int)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def export(session: CommandSession, number: int, directory: Path) -> None:
    """Copy an image to a directory as a DICOM file, with its data set as received. The ledger records the export.

    \b
    Example:  edge instances export 12 /media/usb
    """
    with session.catalog() as conn:
        found = kept_files.file_row(conn, number)
    if found is None:
        raise EdgeError(f"there is no instance {number}; `edge instances list` shows those that wait")
    source, target = session.data_dir / "spool" / found.path, directory / f"instance-{number}.dcm"
    if found.is_deleted or not source.exists():
        raise EdgeError(f"instance {number} is {found.state.value}: its file is no longer stored")
    directory.mkdir(parents=True, exist_ok=True)
    session.change("instance-export", id=number, where=str(target))
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise EdgeError(f"{target} exists already, and is not changed") from None
    with os.fdopen(fd, "wb") as out, source.open("rb") as file:
        while chunk := file.read(1 << 20):
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    say(f"{target}: {size(found.size)}, SHA-256 of the data set {found.sha256.hex()}.")


# -- deciding ----------------------------------------------------------------------------------------------------------


@instances.command("release", short_help="Send images to the destinations of the current routes.")
@click.argument("numbers", metavar="[ID]...", type=int, nargs=-1)
@click.option("--unroutable", is_flag=True, help="All unroutable images; conflicts among them stay held.")
@reason_option
@overwrite_option
@json_option
@click.pass_obj
def release(
    session: CommandSession, numbers: tuple[int, ...], unroutable: bool, reason: str, yes: bool, as_json: bool
) -> None:
    """Send images where the current routes say: a conflict, a mismatch, an unroutable or a quarantined image.

    A conflict or a mismatch must be named by its ID. Where a destination has another version under the same SOP
    Instance UID, the command warns first, because the release overwrites that version. A quarantined image is sent
    unchanged, under the UIDs of its data set.

    \b
    Examples:  edge instances release 12 --reason "the right patient"
               edge instances release --unroutable --reason "the route was added"
    """
    if bool(numbers) == unroutable:
        raise click.UsageError("name IDs, or --unroutable")
    if unroutable:
        with session.catalog() as conn:
            numbers = tuple(undecided.held_ids(conn, "", ReasonCode.UNROUTABLE))
    else:
        warn(session, numbers, yes=yes)
    _decide(session, "instance-release", numbers, as_json, reason=reason, named=not unroutable)


@instances.command("discard", short_help="Discard images: they are not sent.")
@click.argument("numbers", metavar="ID...", type=int, nargs=-1, required=True)
@reason_option
@json_option
@click.pass_obj
def discard(session: CommandSession, numbers: tuple[int, ...], reason: str, as_json: bool) -> None:
    """Discard images that need a decision: they are not sent.

    The file is deleted after [quarantine] keep; until then `edge instances release` reverses the decision. What a
    destination already has stays there. The ledger keeps the user, the reason and the SHA-256.

    \b
    Example:  edge instances discard 12 --reason "wrong patient, sent again"
    """
    _decide(session, "instance-discard", numbers, as_json, reason=reason)


def _decide(session: CommandSession, command: str, numbers: Sequence[int], as_json: bool, **fields: object) -> None:
    """Decide by the daemon where it runs, which sends at once; else in the catalog."""
    decided: list[dict[str, Any]] = []
    if session.daemon_runs:
        for batch in split_batches(numbers):
            decided += session.ask(command, ids=batch, **fields)["decided"]
    else:
        from edge.daemon.changes import RELEASER_DECISIONS  # noqa: PLC0415  # with all that can be changed

        with open_releaser(session) as releaser:
            decided = RELEASER_DECISIONS[command](releaser, {"ids": numbers, "who": login(), **fields})["decided"]
    if as_json:
        print_json(decided)
    else:
        for each in decided:
            say(f"instance {each['instance_id']}: {each['text']}", "" if each["done"] else "yellow")
        done = sum(each["done"] for each in decided)
        say(f"{amount(done, 'image')} decided, {len(decided) - done:,} left unchanged.")
    fail_unless(all(each["done"] for each in decided))


@contextmanager
def open_releaser(session: CommandSession) -> Iterator[Releaser]:
    """Open what a decision needs where no daemon runs."""
    session.require_catalog()
    from edge.intake import Intake  # noqa: PLC0415  # imports the compiler of rules
    from edge.intake.policy import Policy  # noqa: PLC0415  # imports the compiler of rules
    from edge.spool import Spool  # noqa: PLC0415

    with session.store() as database, closing(Spool(session.data_dir)) as spool:
        yield Releaser(database, spool, Intake(database, spool, Policy.from_config(session.config)))
