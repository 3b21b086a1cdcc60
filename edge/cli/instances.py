"""`edge instances`: single images that wait for a decision, or are lost: list, show, export, release, discard.

`show` and `export` hand out what is about a patient, to people who may read the data directory: the ledger notes each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edge.cli.deciding import batches, reasoned, warn
from edge.cli.session import Session, config_option, json_option, login
from edge.cli.studies import NO_ROUTE, instance_json, local, print_facts
from edge.cli.tables import Cell, print_json, print_table, say
from edge.console import instance_header
from edge.dicom.uids import name_of
from edge.errors import EdgeError, Unreadable
from edge.model import DeliveryState, InstanceState, ReasonCode
from edge.monitor.mismatches import Mismatch, mismatched
from edge.release import Decided, Releaser
from edge.store import access_log, operator_actions, queries, undecided
from edge.store.database import Connection
from edge.store.patients import words_for
from edge.store.queries import Instance
from edge.text import counted, marked, printable, size

#: What is listed, and how it is found.
TROUBLED = (InstanceState.CONFLICT, InstanceState.QUARANTINED, InstanceState.LOST)
HELD = (ReasonCode.UNROUTABLE, ReasonCode.MISMATCH)
DEFAULT = [each.value for each in (*TROUBLED, *HELD)]
MISMATCH = ReasonCode.MISMATCH.value
CHOICES = [*DEFAULT, InstanceState.DISCARDED.value]
#: Bytes of a data set that cannot be read which are shown.
DUMPED = 256


@click.group(short_help="Images that wait for a decision, or are lost.")
@config_option
def instances() -> None:
    """Single images that wait for a person: conflicts, mismatches, without a route, in quarantine; and those lost.

    \b
    show     says what an image is, and what else is kept under its SOP Instance UID
    export   copies it, as it is, to a directory
    release  lets it go where the routes of today say
    discard  decides that it goes nowhere; its file is deleted after [quarantine] keep
    """


# -- looking -----------------------------------------------------------------------------------------------------------


@instances.command("list", short_help="List them with the reason and the file.")
@click.option("--state", type=click.Choice(CHOICES), help="Only with this wrong with them.")
@click.option("--limit", default=50, type=click.IntRange(1, 10_000), show_default=True, help="At most so many.")
@json_option
@config_option
@click.pass_obj
def list_instances(session: Session, state: str | None, limit: int, as_json: bool) -> None:
    """List images that wait for a decision or are lost, with the reason and the file.

    \b
    Example:  edge instances list --state quarantined
    """
    with session.catalog() as conn:
        asked = [state] if state else DEFAULT
        whose = {each.instance.id: each for each in mismatched(conn, limit)} if MISMATCH in asked else {}
        found = {each.id: each for one in asked for each in _listed(conn, one, limit)}
        found |= {number: each.instance for number, each in whose.items()}
    shown = list(found.values())[:limit]
    session.looked(sorted({each.study_number for each in whose.values()}), "edge instances list")
    if as_json:
        print_json([instance_json(each) | _mismatch_json(whose.get(each.id)) for each in shown])
        return
    columns = ["id", "state", "received", "from", "reason", "study UID", "SOP instance UID", "file"]
    print_table(columns, [_row(each, session.data_dir / "spool", whose.get(each.id)) for each in shown])
    say(f"{counted(len(shown), 'image')} shown.")


def _listed(conn: Connection, state: str, limit: int) -> list[Instance]:
    if state == InstanceState.DISCARDED.value:
        return undecided.discarded(conn, limit)
    if state in [each.value for each in HELD]:
        return undecided.held_for(conn, ReasonCode(state), limit)
    return queries.troubled(conn, InstanceState(state), limit)


def _told_mismatch(found: Mismatch) -> str:
    """Both patients; the rest of what they differ in is in the study's own page."""
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
    codes = {one.reason_code.value for one in held if one.reason_code in HELD}
    if mismatch is not None:
        codes.add(MISMATCH)
    why = [each.reason] if each.reason else sorted({one.reason for one in held})
    return [
        str(each.id),
        ", ".join(sorted({each.state.value} - {"stored"} | codes)),
        local(each.received_at),
        f"{each.calling_ae} at {each.address}",
        "; ".join([_told_mismatch(mismatch)] if mismatch is not None else why),
        each.study_uid,
        each.sop_instance_uid,
        str(spool / each.path),
    ]


@instances.command("show", short_help="Show what an image is, beside its other versions.")
@click.argument("numbers", metavar="ID...", type=int, nargs=-1, required=True)
@json_option
@config_option
@click.pass_obj
def show(session: Session, numbers: tuple[int, ...], as_json: bool) -> None:
    """Show images: where each came from and stands, what its header says, what its release would replace.

    Other versions under the same SOP Instance UID are shown with it. The ledger notes who has looked.

    \b
    Example:  edge instances show 12
    """
    with session.catalog() as conn:
        found = {each.id: each for number in numbers for each in _versions(conn, number)}
    _note_look(session, list(found), "edge instances show")
    if as_json:
        print_json([instance_json(each) | _header_json(session, each) for each in found.values()])
        return
    for each in found.values():
        _print(session, each)
    for number in numbers:
        for line in undecided.overwrites(list(found.values()), number):
            say(line, "bold red")


def _versions(conn: Connection, number: int) -> list[Instance]:
    found = queries.versions(conn, number)
    if not found:
        raise EdgeError(f"there is no instance {number}; `edge instances list` shows those that wait")
    return found


def _note_look(session: Session, ids: Sequence[int], how: str) -> None:
    """Before anything is shown. Raises EdgeError where it cannot be recorded: then it is not shown."""
    if session.daemon_runs:
        session.ask("instance-viewed", ids=list(ids), who=login(), why=how)
        return
    with session.store() as database:
        database.write(lambda conn: access_log.viewed_instances(conn, time.time(), login(), ids, how))


def _print(session: Session, each: Instance) -> None:
    where = "; ".join(f"{name or NO_ROUTE}: {one.state.value}" for name, one in sorted(each.deliveries.items()))
    facts: list[tuple[str, Cell]] = [
        ("instance", str(each.id)),
        ("state", _state_of(each)),
        ("reason", each.reason),
        ("destinations", where or "went nowhere"),
        ("kind", name_of(each.sop_class_uid)),
        ("syntax", name_of(each.transfer_syntax_uid)),
        ("received", f"{local(each.received_at)} from {each.calling_ae} at {each.address}"),
        ("size", size(each.size)),
        ("SHA-256", each.sha256),
        ("SOP instance", each.sop_instance_uid),
    ]
    print_facts(facts)
    attributes, trouble = _header(session, each)
    print_table(["attribute", "value"], [[name, value] for name, value in attributes.items()])
    for line in trouble.splitlines():
        say(line, "yellow")
    say("")


def _state_of(each: Instance) -> str:
    if each.released_as is not None:
        return f"released, as instance {each.released_as}"
    if each.deleted_at is not None:
        return f"discarded {local(each.discarded_at)}, its file deleted {local(each.deleted_at)}"
    if each.discarded_at is not None:
        return f"discarded {local(each.discarded_at)}, its file is still kept"
    return each.state.value


def _header_json(session: Session, each: Instance) -> dict[str, Any]:
    attributes, trouble = _header(session, each)
    return {"header": attributes, "unreadable": trouble or None}


def _header(session: Session, each: Instance) -> tuple[dict[str, str], str]:
    """What the header says, and why it could not be read, with its first bytes; one of the two is empty."""
    path = session.data_dir / "spool" / each.path
    try:
        found = instance_header.read_file(
            path, each.transfer_syntax_uid, {*instance_header.ABOUT_PATIENTS, *instance_header.ABOUT_IMAGES}
        )
    except OSError as error:
        return {}, f"there is no file to read: {error.strerror}"
    except Unreadable as error:
        return {}, f"the header cannot be read: {error}; its first bytes:\n{instance_header.dump(path, DUMPED)}"
    if not found:
        return {}, f"the header says nothing that is known; its first bytes:\n{instance_header.dump(path, DUMPED)}"
    order = (*instance_header.ABOUT_PATIENTS, *instance_header.ABOUT_IMAGES)
    return {name: printable("\\".join(map(marked, found[name]))) for name in order if name in found}, ""


@instances.command("export", short_help="Copy an image, as it is, to a directory.")
@click.argument("number", metavar="ID", type=int)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@config_option
@click.pass_obj
def export(session: Session, number: int, directory: Path) -> None:
    """Copy an image to a directory as a DICOM file, its data set bit for bit as it came. The ledger notes who did.

    \b
    Example:  edge instances export 12 /media/usb
    """
    with session.catalog() as conn:
        found = operator_actions.kept(conn, number)
    if found is None:
        raise EdgeError(f"there is no instance {number}; `edge instances list` shows those that wait")
    source, target = session.data_dir / "spool" / found.path, directory / f"instance-{number}.dcm"
    if found.is_deleted or not source.exists():
        raise EdgeError(f"instance {number} is {found.state.value}: its file is not here any more")
    directory.mkdir(parents=True, exist_ok=True)
    _note_export(session, number, str(target))
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise EdgeError(f"{target} is there already, and stays as it is") from None
    with os.fdopen(fd, "wb") as out, source.open("rb") as file:
        while chunk := file.read(1 << 20):
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    say(f"{target}: {size(found.size)}, SHA-256 of the data set {found.sha256.hex()}.")


def _note_export(session: Session, number: int, where: str) -> None:
    if session.daemon_runs:
        session.ask("instance-export", id=number, who=login(), where=where)
        return
    with session.store() as database:
        database.write(lambda conn: operator_actions.note_exported(conn, number, time.time(), login(), where))


# -- deciding ----------------------------------------------------------------------------------------------------------


@instances.command("release", short_help="Let images go where the routes say.")
@click.argument("numbers", metavar="[ID]...", type=int, nargs=-1)
@click.option("--unroutable", is_flag=True, help="All that no route matched; conflicts among them wait on.")
@reasoned
@click.option("--yes", is_flag=True, help="Do not ask, where other bytes at a destination are replaced.")
@json_option
@config_option
@click.pass_obj
def release(
    session: Session, numbers: tuple[int, ...], unroutable: bool, reason: str, yes: bool, as_json: bool
) -> None:
    """Let images go where the routes of today say: a conflict, a mismatch, one without a route, one in quarantine.

    A conflict or a mismatch is named by its ID. Where a destination has another version under the same SOP Instance
    UID, that is said before, for this one replaces it there. What leaves quarantine is sent as it is, under the UIDs
    of its data set.

    \b
    Examples:  edge instances release 12 --reason "the right patient, by the technologist"
               edge instances release --unroutable --reason "the route is there now"
    """
    if bool(numbers) == unroutable:
        raise click.UsageError("a decision names its object: some IDs, or --unroutable")
    if unroutable:
        with session.catalog() as conn:
            numbers = tuple(undecided.held_ids(conn, "", ReasonCode.UNROUTABLE))
    else:
        warn(session, numbers, yes=yes)
    who, named = login(), not unroutable

    def decide(releaser: Releaser, number: int) -> Decided:
        return releaser.release(number, who, reason, named=named)

    _decide(session, "instance-release", numbers, decide, as_json, who=who, reason=reason, named=named)


@instances.command("discard", short_help="Decide that images go nowhere.")
@click.argument("numbers", metavar="ID...", type=int, nargs=-1, required=True)
@reasoned
@json_option
@config_option
@click.pass_obj
def discard(session: Session, numbers: tuple[int, ...], reason: str, as_json: bool) -> None:
    """Decide that images which wait for a decision go nowhere.

    The file is deleted after [quarantine] keep; until then `edge instances release` takes the decision back. What a
    destination has already stays there. The ledger keeps who, why, and the SHA-256.

    \b
    Example:  edge instances discard 12 --reason "wrong patient, sent again under the right one"
    """
    who = login()

    def decide(releaser: Releaser, number: int) -> Decided:
        return releaser.discard(number, who, reason)

    _decide(session, "instance-discard", numbers, decide, as_json, who=who, reason=reason)


def _decide(
    session: Session,
    command: str,
    numbers: Sequence[int],
    decide: Callable[[Releaser, int], Decided],
    as_json: bool,
    **told: object,
) -> None:
    """By the daemon where it runs, so that it is sent at once; else in the catalog."""
    decided: list[Decided] = []
    if session.daemon_runs:
        for batch in batches(numbers):
            decided += [Decided(**each) for each in session.ask(command, ids=batch, **told)["decided"]]
    else:
        with _releaser(session) as releaser:
            decided = [decide(releaser, number) for number in numbers]
    if as_json:
        print_json([asdict(each) for each in decided])
    else:
        for each in decided:
            say(f"instance {each.instance_id}: {each.text}", "" if each.done else "yellow")
        done = sum(each.done for each in decided)
        say(f"{counted(done, 'image')} decided, {len(decided) - done:,} left as they were.")
    if not all(each.done for each in decided):
        raise SystemExit(1)


@contextmanager
def _releaser(session: Session) -> Iterator[Releaser]:
    """Where no daemon runs."""
    from edge.intake import Intake, Policy  # noqa: PLC0415  # with the rules' compiler, which looking does not need
    from edge.spool import Spool  # noqa: PLC0415

    with session.store() as database:
        spool = Spool(session.data_dir)
        try:
            yield Releaser(database, spool, Intake(database, spool, Policy.of(session.config)))
        finally:
            spool.close()
