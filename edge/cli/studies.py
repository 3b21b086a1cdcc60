"""`edge studies`: what has been received, and where it stands.

These show who a study is about, to people who may read the data directory; nothing of it goes anywhere else.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from edge.cli.session import Session, config_option, json_option
from edge.cli.tables import Cell, print_json, print_table, say
from edge.dicom.uids import name_of
from edge.errors import EdgeError
from edge.identity import Standing
from edge.store import queries
from edge.store.patients import words_for
from edge.store.queries import Counts, Instance, Study
from edge.store.study_patients import StudyPatient, differing
from edge.text import GUESSED, size

NO_ROUTE = "(no route)"
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def since_option(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float:
    """A day, a moment, or how long ago, as seconds since 1970; 0 where nothing is given."""
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


def local(moment: float | None) -> str:
    """A moment in local time, as people read it."""
    return "" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def known_study(found: Study | None, study_uid: str) -> Study:
    """The study, or an error that says what to do."""
    if found is None:
        raise EdgeError(f"no study {study_uid} has been received; `edge studies list --search TEXT` looks for one")
    return found


@click.group(short_help="What has been received, and where it stands.")
@config_option
def studies() -> None:
    """Studies that have been received, and where they stand."""


@studies.command("list", short_help="List studies, the latest first.")
@click.option("--search", default="", metavar="TEXT", help="Part of a UID, patient ID, name, accession or description.")
@click.option("--since", callback=since_option, metavar="WHEN", help='Received since: "2d", "12h", 2026-11-21.')
@click.option("--limit", default=50, type=click.IntRange(1, 10_000), show_default=True, help="At most so many.")
@json_option
@config_option
@click.pass_obj
def list_studies(session: Session, search: str, since: float, limit: int, as_json: bool) -> None:
    """List studies, the latest first, with the state of their images at each destination.

    \b
    Example:  edge studies list --search SMITH --since 2d
    """
    with session.catalog() as conn:
        found = queries.studies(conn, search, since, limit)
    session.looked([each.id for each in found], "edge studies list")
    if as_json:
        print_json([_study_json(each) for each in found])
        return
    columns = ["received", "patient ID", "name", "modality", "description", "images", "destinations", "study UID"]
    print_table(columns, [_study_row(each) for each in found])
    if len(found) == limit:
        say(f"The latest {limit} are shown; --limit, --since and --search choose others.")


def _study_row(study: Study) -> list[Cell]:
    several = differing(study.patients)
    return [
        local(study.last_received),
        "; ".join(each.patient_id for each in several) or _shown(study, "patient_id"),
        "; ".join(each.patient_name for each in several) or _shown(study, "patient_name"),
        study.modality,
        _shown(study, "description"),
        study.instances,
        told_counts(study.deliveries),
        study.study_uid,
    ]


def _shown(study: Study, field: str) -> str:
    """A text of a study, marked where it is a guess."""
    return f"{getattr(study, field)}{GUESSED if field in study.guessed else ''}"


def told_counts(deliveries: Counts) -> str:
    """`archive: 598 confirmed, 2 held`."""
    return "; ".join(
        f"{destination or NO_ROUTE}: {', '.join(f'{n:,} {state}' for state, n in sorted(states.items()))}"
        for destination, states in sorted(deliveries.items())
    )


def _study_json(study: Study) -> dict[str, Any]:
    return {key: value for key, value in asdict(study).items() if key != "id"}


@studies.command("show", short_help="Show one study, image by image.")
@click.argument("study_uid")
@json_option
@config_option
@click.pass_obj
def show_study(session: Session, study_uid: str, as_json: bool) -> None:
    """Show one study: its images, and the state of each at every destination.

    \b
    Example:  edge studies show 1.2.840.113619.2.55.3.604688119.868
    """
    with session.catalog() as conn:
        study = known_study(queries.study(conn, study_uid), study_uid)
        found = queries.instances_of(conn, study.id)
    session.looked([study.id], "edge studies show")
    if as_json:
        print_json(_study_json(study) | {"instances": [instance_json(each) for each in found]})
        return
    about: list[tuple[str, Cell]] = [
        ("study UID", study.study_uid),
        ("patient", f"{_shown(study, 'patient_name')} ({_shown(study, 'patient_id')})"),
        ("accession", _shown(study, "accession")),
        ("study date", study.study_date),
        ("description", f"{study.modality} {_shown(study, 'description')}".strip()),
        ("received", f"{local(study.first_received)} to {local(study.last_received)}"),
        ("images", f"{study.instances:,} in {len({each.series_uid for each in found}):,} series, {size(study.bytes)}"),
        ("destinations", told_counts(study.deliveries)),
    ]
    print_facts(about)
    _print_patients(study)
    say("")
    print_table(["kept", "destinations", "kind", "size", "SOP instance UID", "note"], map(_instance_row, found))


def _print_patients(study: Study) -> None:
    several = differing(study.patients)
    if not several:
        return
    say("")
    say(f"Images of {len(several)} patients lie under this Study Instance UID:", "bold red")
    columns = ["patient ID", "issuer", "name", "birth date", "sex", "images", "standing"]
    print_table(columns, map(_patient_row, several))


def _patient_row(patient: StudyPatient) -> list[Cell]:
    standing = {
        Standing.AGREES: "came first",
        Standing.DIFFERS: f"another {words_for(patient.differs_in)}: nobody has decided",
        Standing.ACCEPTED: "accepted by a person",
    }[patient.standing]
    born, number = patient.birth_date, patient.images
    return [patient.patient_id, patient.issuer, patient.patient_name, born, patient.sex, number, standing]


def print_facts(facts: list[tuple[str, Cell]]) -> None:
    """Name and value, a line each."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        say(f"{name.ljust(width)}  {'-' if value in (None, '') else value}")


def _instance_row(instance: Instance) -> list[Cell]:
    where = "; ".join(f"{name or NO_ROUTE}: {each.state.value}" for name, each in sorted(instance.deliveries.items()))
    notes = [instance.reason, *(each.reason for each in instance.deliveries.values())]
    note = "; ".join(dict.fromkeys(filter(None, notes)))
    kind = name_of(instance.sop_class_uid)
    return [instance.state.value, where, kind, size(instance.size), instance.sop_instance_uid, note]


def instance_json(instance: Instance) -> dict[str, Any]:
    """One instance, its deliveries by destination."""
    told = asdict(instance)
    for name, each in told["deliveries"].items():
        told["deliveries"][name] = {key: each[key] for key in _DELIVERY_KEYS}
    return told


_DELIVERY_KEYS = ("id", "state", "reason", "status", "attempts", "queued_at", "not_before", "sent_at", "confirmed_at")
