"""`edge import`: bring in files, folders, archives and discs, and say whose they are.

The output has patient data, for people who may read the data directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge.cli.deciding import reason_option
from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option, print_note
from edge.cli.tables import Columns, fail_unless, local_time, print_facts, print_json, print_rows, progress_bar, say
from edge.errors import EdgeError, StorageFull
from edge.importer.staging import STAGED_FOLDER, Stager, StagingProgress
from edge.importer.whose import LocalIdentity, list_differences
from edge.spool.room import disk_of
from edge.store import imports
from edge.store.imports import ImportBatch, ImportStudy
from edge.store.listing import ListPart
from edge.text import amount, size

#: Names that are printed; `edge import show` has all of them.
_NAMED = 20
_COLUMNS: Columns[ImportBatch] = {
    "import": lambda each: str(each.id),
    "read": lambda each: local_time(each.began_at),
    "source": lambda each: each.source,
    "by": lambda each: each.who,
    "files": lambda each: each.objects,
    "left out": lambda each: each.skipped,
    "waiting": lambda each: each.waiting,
}
_STUDIES: Columns[ImportStudy] = {
    "study": lambda each: str(each.id),
    "state": lambda each: each.state.value,
    "patient ID": lambda each: each.patient.patient_id,
    "name": lambda each: each.patient.patient_name,
    "born": lambda each: each.patient.birth_date,
    "sex": lambda each: each.patient.sex,
    "date": lambda each: each.study_date,
    "modality": lambda each: each.modality,
    "description": lambda each: each.description,
    "files": lambda each: sum(each.objects.values()),
}


class _ImportGroup(click.Group):
    """`edge import PATH` reads a path; what is no command is one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["read", *args]
        return super().resolve_command(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "PATH | COMMAND [ARGS]...")


@click.group("import", cls=_ImportGroup, short_help="Import files, ZIP archives and discs; say whose they are.")
def import_() -> None:
    """Import files, folders, ZIP archives and images of discs (ISO 9660), with or without a DICOMDIR.

    What is read is staged: it goes nowhere until `edge import assign` says whose it is.

    \b
    Examples:  edge import /media/cdrom
               edge import list
               edge import assign 3 --order A4711
    """


@import_.command("read", short_help="Read a path; `edge import PATH` is the same.")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def read(session: CommandSession, path: Path, as_json: bool) -> None:
    """Read a path and stage what is of use in it. Exit 1 when something was left out that could have been an image.

    An import that broke off goes on when the same path is read again.

    \b
    Example:  edge import read /media/cdrom
    """
    if not path.exists():
        raise EdgeError(f"there is no {path}")
    with progress_bar("Reading") as bar:
        stager = Stager(
            session.data_dir, session.change, lambda: _check_room(session), lambda found: bar(found.files, None)
        )
        found = stager.stage(path, str(path.absolute()), "command")
    with session.quiet_catalog() as conn:
        studies = imports.list_import_studies(conn, found.batch)
    if as_json:
        print_json(_progress_json(found) | {"studies": [_study_json(each) for each in studies]})
    else:
        _print_progress(found, studies)
    fail_unless(found.is_whole)


def _check_room(session: CommandSession) -> None:
    used, mark = disk_of(session.data_dir).used_fraction, session.config.storage.refuse
    if used >= mark:
        raise StorageFull(f"the disk is {used:.1%} full, storage.refuse is {mark:.1%}: the import broke off")


def _progress_json(found: StagingProgress) -> dict[str, Any]:
    return {
        "batch": found.batch,
        "files": found.files,
        "bytes": found.bytes,
        "objects": found.objects,
        "staged_before": found.known,
        "foreign": found.foreign,
        "skipped": [{"name": each.name, "code": each.code.value, "detail": each.detail} for each in found.skipped],
        "listed_and_missing": found.missing,
        "present_and_unlisted": found.unlisted,
    }


def _print_progress(found: StagingProgress, studies: list[ImportStudy]) -> None:
    before = f", {found.known:,} staged before" if found.known else ""
    say(
        f"Import {found.batch}: {amount(found.files, 'file')} read, {amount(found.objects, 'object')} staged"
        f" ({size(found.bytes)}){before}; {amount(found.foreign, 'other file')} passed over."
    )
    for each in found.skipped[:_NAMED]:
        say(f"  left out: {each.name} ({each.code.value}{': ' if each.detail else ''}{each.detail})", "yellow")
    for name in found.missing[:_NAMED]:
        say(f"  the DICOMDIR names {name}, which is not there", "yellow")
    if found.unlisted:
        say(f"  {amount(found.unlisted, 'image')} not named by the DICOMDIR, and staged all the same")
    _print_studies(studies)
    if any(each.state.value == "staged" for each in studies):
        say("Nothing goes on until you say whose it is: `edge import assign STUDY --order ACCESSION` or --patient ID.")


def _print_studies(studies: list[ImportStudy]) -> None:
    if studies:
        print_rows(_STUDIES, studies)


def _study_json(study: ImportStudy) -> dict[str, Any]:
    return {
        "study": study.id,
        "batch": study.batch_id,
        "study_uid": study.study_uid,
        "state": study.state.value,
        "patient": study.patient,
        "study_date": study.study_date,
        "description": study.description,
        "modality": study.modality,
        "accession": study.accession,
        "identity": study.identity,
        "decided_by": study.decided_by,
        "decided_at": study.decided_at,
        "reason": study.reason,
        "objects": dict(study.objects),
    }


@import_.command("list", short_help="List imports; those that wait for a decision first.")
@part_options()
@json_option
@click.pass_obj
def list_imports(session: CommandSession, part: ListPart, as_json: bool) -> None:
    """List imports; those with a study that waits for a decision come first.

    \b
    Example:  edge import list
    """
    with session.catalog() as conn:
        found = read_part(imports.list_batches(conn), part)
    print_part(found, _COLUMNS, "Nothing has been imported yet.", as_json=as_json)


@import_.command("show", short_help="Show one import: its studies, and what was left out.")
@click.argument("batch", type=int, metavar="IMPORT")
@json_option
@click.pass_obj
def show(session: CommandSession, batch: int, as_json: bool) -> None:
    """Show one import: its studies, what was left out, and what has become of each.

    \b
    Example:  edge import show 3
    """
    with session.catalog() as conn:
        found = imports.find_batch(conn, batch)
        studies = imports.list_import_studies(conn, batch)
        skipped = imports.list_skipped(conn, batch)
        failed = [each for study in studies for each in imports.list_import_objects(conn, study.id, state="failed")]
    if found is None:
        raise EdgeError(f"there is no import {batch}; `edge import list` shows them")
    if as_json:
        left = [{"name": name, "code": code, "detail": detail} for name, code, detail in skipped]
        notes = [{"name": each.name, "note": each.note} for each in failed]
        more = {"studies": [_study_json(each) for each in studies], "left_out": left, "failed": notes}
        print_json({name: getattr(found, name) for name in found.__dataclass_fields__} | more)
        return
    print_facts(
        [
            ("import", str(found.id)),
            ("source", found.source),
            ("read", f"{local_time(found.began_at)} by {found.who}{'' if found.ended_at else ', not to its end'}"),
            ("files", found.objects),
            ("other files", found.foreign_files),
            ("not in its DICOMDIR", found.unlisted),
        ]
    )
    for name, code, detail in skipped:
        say(f"left out: {name} ({code}{': ' if detail else ''}{detail})", "yellow")
    for name in found.missing:
        say(f"the DICOMDIR names {name}, which is not there", "yellow")
    for each in failed:
        say(f"not imported: {each.name} ({each.note})", "bold red")
    _print_studies(studies)
    for study in studies:
        if study.identity:
            _print_decision(study, LocalIdentity(**study.identity))


def _print_decision(study: ImportStudy, local: LocalIdentity) -> None:
    differs = list_differences(study.patient, local)
    more = f"; the files name another {', '.join(differs)}" if differs else ""
    why = f": {study.reason}" if study.reason else ""
    say(f"Study {study.id} is of {local.patient_id} {local.patient_name}, by {study.decided_by}{more}{why}")


@import_.command("assign", short_help="Say whose a staged study is; then it is imported.")
@click.argument("study", type=int)
@click.option("--order", metavar="ACCESSION", help="The order that it belongs to.")
@click.option("--patient", metavar="ID", help="A patient known here, where there is no order.")
@click.option("--issuer", metavar="NAME", help="Who issued that patient ID, where several did.")
@click.option("--name", metavar="NAME", help="The patient's name, where images have several under that ID.")
@click.option("--born", metavar="YYYYMMDD", help="The birth date, where there are several.")
@click.option("--reason", default="", metavar="TEXT", help="Why, where birth date or sex differ.")
@click.pass_obj
def assign(
    session: CommandSession,
    study: int,
    order: str | None,
    patient: str | None,
    issuer: str | None,
    name: str | None,
    born: str | None,
    reason: str,
) -> None:
    """Say whose a staged study is: it gets the identity of that order or patient, and goes where the routes say.

    Its UIDs stay, and what is changed is kept in the images. Where birth date or sex differ, a reason is required.

    \b
    Example:  edge import assign 3 --order A4711
    """
    if (order is None) == (patient is None):
        raise click.UsageError("give either --order or --patient")
    fields: dict[str, Any] = {"study": study, "reason": reason}
    fields |= (
        {"order": order}
        if order is not None
        else {
            "patient_id": patient,
            "issuer": issuer,
            "patient_name": name,
            "birth_date": born,
        }
    )
    answer = session.change("import-assign", **fields)
    differs = f" The files name another {', '.join(answer['differs_in'])}." if answer["differs_in"] else ""
    say(f"Study {study} is assigned.{differs}")
    if not session.daemon_runs:
        print_note("the gateway is down; it imports the study when it runs again")


@import_.command("discard", short_help="Decide that a staged study is not imported.")
@click.argument("study", type=int)
@reason_option
@click.pass_obj
def discard(session: CommandSession, study: int, reason: str) -> None:
    """Decide that a staged study is not imported. Its staged files are deleted.

    \b
    Example:  edge import discard 3 --reason "not our patient"
    """
    answer = session.change("import-discard", study=study, reason=reason)
    for path in answer["paths"]:
        (session.data_dir / STAGED_FOLDER / path).unlink(missing_ok=True)
    say(f"Study {study} is discarded.")
