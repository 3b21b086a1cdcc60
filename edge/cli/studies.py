"""`edge studies`: received studies and their state.

The output has patient data, for people who may read the data directory.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edge.cli import dose, legal_holds
from edge.cli.deciding import reason_option, require_destination
from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option
from edge.cli.study_assign import assign
from edge.cli.study_copies import copies_json, outdated, print_copies
from edge.cli.study_identity import print_identity, read_study_identity, study_identity_json
from edge.cli.tables import (
    Cell,
    Columns,
    fail_unless,
    local_time,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    say,
)
from edge.dicom.uids import name_of
from edge.errors import EdgeError
from edge.model import DeliveryState
from edge.storage.file_set import export_folder, file_set_uid, read_todays_patients
from edge.store import queries
from edge.store.database import Transaction
from edge.store.identity import Standing
from edge.store.listing import ListPart
from edge.store.patients import words_for
from edge.store.queries import Instance
from edge.store.sent_copies import list_sent
from edge.store.studies import Counts, Study, latest_studies, study_by_uid
from edge.store.study_patients import StudyPatient, list_differing_patients
from edge.text import GUESSED, amount, size

_COLUMNS: Columns[Study] = {
    "received": lambda each: local_time(each.last_received),
    "patient ID": lambda each: _join_patients(each, "patient_id") or _patient_id(each),
    "name": lambda each: _join_patients(each, "patient_name") or _patient_name(each),
    "modality": lambda each: each.modality,
    "description": lambda each: _text_of(each, "description"),
    "images": lambda each: "; ".join([f"{each.instances:,}", *each.marks]),
    "destinations": lambda each: format_counts(each.deliveries),
    "study UID": lambda each: each.study_uid,
}
UNROUTED = "(no route)"
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def since_option(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float:
    """Parse a date, a time, or an age, as seconds since 1970; 0 where nothing is given."""
    if text is None:
        return 0.0
    if text[:-1].isdigit() and text[-1] in _UNITS:
        return time.time() - int(text[:-1]) * _UNITS[text[-1]]
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"):
        try:
            return time.mktime(time.strptime(text, form))
        except ValueError:
            continue
    raise click.BadParameter(f'expected "30m", "12h", "2d", 2026-11-21 or 2026-11-21T18:00, found "{text}"')


def require_study(session: CommandSession, conn: Transaction, study_uid: str) -> Study:
    """Return the study. Raises EdgeError where there is none."""
    if (found := study_by_uid(conn, study_uid)) is None:
        raise no_study(session, conn, study_uid)
    return found


def no_study(session: CommandSession, conn: Transaction, study_uid: str) -> EdgeError:
    """Why the catalog has no such study: it was not received, or its images are in the journal alone."""
    if recorded := session.recorded_of(conn, study_uid):
        images = amount(len(recorded), "image")
        return EdgeError(f"{images} of study {study_uid} recorded in the journal; the next start stores them")
    return EdgeError(f"no study {study_uid} has been received; search with `edge studies list --search TEXT`")


@click.group(short_help="List and show received studies; legal holds.")
def studies() -> None:
    """List and show received studies; place them under a legal hold."""


for _command in (*legal_holds.HOLD_COMMANDS, dose.dose):
    studies.add_command(_command)


studies.add_command(assign)
studies.add_command(outdated)


@studies.command("list", short_help="List studies, the latest first.")
@click.option("--search", default="", metavar="TEXT", help="Part of a UID, patient ID, name, accession or description.")
@click.option("--since", callback=since_option, metavar="WHEN", help='Received since: "2d", "12h", 2026-11-21.')
@part_options()
@json_option
@click.pass_obj
def list_studies(session: CommandSession, search: str, since: float, part: ListPart, as_json: bool) -> None:
    """List studies, the latest first, with the state of their images at each destination.

    \b
    Example:  edge studies list --search SMITH --since 2d
    """
    with session.catalog() as conn:
        found = read_part(latest_studies(conn, search, since), part)
    session.record_access([each.id for each in found.rows], "edge studies list")
    none = "No such study." if search or since else "Nothing has been received yet."
    print_part(found, _COLUMNS, none, as_json=as_json, json_of=_study_json)


def _text_of(study: Study, field: str) -> str:
    """A text of a study, marked where it is a guess."""
    return f"{getattr(study, field)}{GUESSED if field in study.guessed else ''}"


def _patient_name(study: Study) -> str:
    """The patient's name as the images have it, and as the feeds state it today."""
    return " -> ".join(filter(None, (_text_of(study, "patient_name"), study.patient_today.get("PatientName"))))


def _patient_id(study: Study) -> str:
    """The Patient ID as the images have it, and as the feeds state it today."""
    return " -> ".join(filter(None, (_text_of(study, "patient_id"), study.patient_today.get("PatientID"))))


def _join_patients(study: Study, field: str) -> str:
    """Join a field of each patient, where the images have several."""
    return "; ".join(getattr(each, field) for each in list_differing_patients(study.patients))


def format_counts(deliveries: Counts) -> str:
    """`archive: 598 confirmed, 2 held`."""
    shown = (
        (
            name or UNROUTED,
            ", ".join(f"{n:,} {DeliveryState(state).label}" for state, n in sorted(states.items())),
        )
        for name, states in sorted(deliveries.items())
    )
    return "; ".join(f"{name}: {counts}" for name, counts in shown)


def _study_json(study: Study) -> dict[str, Any]:
    return {key: value for key, value in asdict(study).items() if key != "id"}


@studies.command("show", short_help="Show one study and each of its images.")
@click.argument("study_uid")
@json_option
@click.pass_obj
def show_study(session: CommandSession, study_uid: str, as_json: bool) -> None:
    """Show one study: its images, and the state of each at every destination.

    \b
    Example:  edge studies show 1.2.840.113619.2.55
    """
    with session.catalog() as conn:
        study = require_study(session, conn, study_uid)
        found = queries.instances_of(conn, study.id)
        copies = list_sent(conn, study.id)
        identity = read_study_identity(conn, study.id)
    session.record_access([study.id], "edge studies show")
    if as_json:
        shown = [instance_json(each) | {"sent_as": copies_json(copies, each.id)} for each in found]
        print_json(_study_json(study) | study_identity_json(identity) | {"instances": shown})
        return
    about: list[tuple[str, Cell]] = [
        ("study UID", study.study_uid),
        ("patient", f"{_patient_name(study)} ({_patient_id(study)})"),
        ("accession", _text_of(study, "accession")),
        ("study date", study.study_date),
        ("description", f"{study.modality} {_text_of(study, 'description')}".strip()),
        ("received", f"{local_time(study.first_received)} to {local_time(study.last_received)}"),
        ("images", _describe_images(study, len({each.series_uid for each in found}))),
        ("destinations", format_counts(study.deliveries)),
    ]
    print_facts(about)
    _print_patients(study)
    print_identity(identity)
    say("")
    print_table(["state", "destinations", "kind", "size", "SOP instance UID", "note"], map(_instance_row, found))
    print_copies(copies)


def _describe_images(study: Study, series: int) -> str:
    return "; ".join([f"{study.instances:,} in {series:,} series, {size(study.bytes)}", *study.marks])


def _print_patients(study: Study) -> None:
    several = list_differing_patients(study.patients)
    if not several:
        return
    say("")
    say(f"This study has images of {len(several)} patients:", "bold red")
    columns = ["patient ID", "issuer", "name", "birth date", "sex", "images", "standing"]
    print_table(columns, map(_patient_row, several))


def _patient_row(patient: StudyPatient) -> list[Cell]:
    standing = {
        Standing.AGREES: "first received",
        Standing.DIFFERS: f"another {words_for(patient.differs_in)}: needs a decision",
        Standing.ACCEPTED: "accepted by a person",
    }[patient.standing]
    born, number = patient.birth_date, patient.images
    return [patient.patient_id, patient.issuer, patient.patient_name, born, patient.sex, number, standing]


def _instance_row(instance: Instance) -> list[Cell]:
    notes = [*instance.marks, instance.reason, *(each.reason for each in instance.deliveries.values())]
    note = "; ".join(dict.fromkeys(filter(None, notes)))
    kind = name_of(instance.sop_class_uid)
    return [instance.state.value, format_states(instance), kind, size(instance.size), instance.sop_instance_uid, note]


def format_states(instance: Instance) -> str:
    """`archive: sent; workstation: held`."""
    return "; ".join(f"{name or UNROUTED}: {each.state.label}" for name, each in sorted(instance.deliveries.items()))


def instance_json(instance: Instance) -> dict[str, Any]:
    """One instance, its deliveries by destination."""
    found = asdict(instance)
    for name, each in found["deliveries"].items():
        found["deliveries"][name] = {key: each[key] for key in _DELIVERY_KEYS}
    return found


_DELIVERY_KEYS = ("id", "state", "reason", "status", "attempts", "queued_at", "not_before", "sent_at", "confirmed_at")


# -- sending and exporting ---------------------------------------------------------------------------------------------


@studies.command("send", short_help="Send a study to a destination, whatever the routes say.")
@click.argument("study_uid", metavar="UID")
@click.option("--to", "destination", required=True, metavar="NAME", help="A destination of the configuration.")
@reason_option
@click.option(
    "--priority",
    type=click.Choice(["stat", "urgent", "routine"]),
    default="routine",
    show_default=True,
    help="How urgent it is.",
)
@click.option("--again", is_flag=True, help="Also images that it was sent before.")
@json_option
@click.pass_obj
def send(
    session: CommandSession, study_uid: str, destination: str, reason: str, priority: str, again: bool, as_json: bool
) -> None:
    """Send every image of a study to a destination. Skips images that wait for a decision, and those that it
    has.

    Exit 1 when nothing was queued.

    \b
    Example:  edge studies send 1.2.840.113619.2.55 --to reader --reason "opinion"
    """
    require_destination(session, destination)
    with session.catalog() as conn:
        study = require_study(session, conn, study_uid)
    fields = {"destination": destination, "reason": reason, "priority": priority, "again": again}
    answer = session.change("study-send", study=study.id, **fields)
    counts = {name: answer[name] for name in ("queued", "there", "undecided", "gone")}
    if as_json:
        print_json(counts)
    else:
        say(f"{amount(counts['queued'], 'image')} queued for {destination}.")
        for name, text in _NOT_SENT.items():
            if counts[name]:
                say(f"{amount(counts[name], 'image')} {text}.")
    fail_unless(counts["queued"] > 0)


_NOT_SENT = {
    "there": "not queued: the destination has them, or gets them already",
    "undecided": "not queued: a person must decide about them first (`edge instances list`)",
    "gone": "not queued: their files are not on this disk any more",
}


@studies.command("export", short_help="Copy a study to a directory, with a DICOMDIR.")
@click.argument("study_uid", metavar="UID")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def export(session: CommandSession, study_uid: str, directory: Path) -> None:
    """Copy a study as DICOM files with a DICOMDIR (PS3.10), so that the medium can be read anywhere.

    The directory must be empty. The patient is as the feeds know them today. Each file is compared with its digest; a
    damaged one is left out and named (exit 1). The ledger records the export.

    \b
    Example:  edge studies export 1.2.840.113619.2.55 /media/usb/study
    """
    with session.catalog() as conn:
        study = require_study(session, conn, study_uid)
        found = queries.instances_of(conn, study.id)
        today = read_todays_patients(conn, session.config, found)
    where = str(directory.absolute())
    session.change("study-exported", study=study.id, ids=[each.id for each in found], where=where)
    with progress_bar("Copying", len(found)) as bar:
        result = export_folder(session.data_dir / "spool", found, directory, file_set_uid(study_uid), bar, today)
    say(f"{directory}: {amount(len(result.files), 'image')}, {size(result.bytes)}, and a DICOMDIR.")
    for number, why in result.left_out:
        say(f"instance {number} is left out: {why}", "bold red")
    fail_unless(not result.left_out)
