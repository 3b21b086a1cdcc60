"""`edge studies dose`: the irradiation events of a study's dose reports, each counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Cell, print_json, print_table, say
from edge.dicom import dose as reports
from edge.errors import EdgeError
from edge.monitor.figures import dose_reports_of
from edge.store.studies import study_by_uid


@click.command("dose", short_help="Show the irradiation events of a study.")
@click.argument("study_uid")
@json_option
@click.pass_obj
def dose(session: CommandSession, study_uid: str, as_json: bool) -> None:
    """Show the irradiation events of a study's dose reports: each once, by its Irradiation Event UID.

    \b
    Example:  edge studies dose 1.2.840.113619.2.55
    """
    with session.catalog() as conn:
        study = study_by_uid(conn, study_uid)
        if study is None:
            raise EdgeError(f"no study {study_uid} has been received; search with `edge studies list --search TEXT`")
        kept = dose_reports_of(conn, study.id)
    session.record_access([study.id], "edge studies dose")
    spool = session.data_dir / "spool"
    try:
        events = reports.unite_events(event for path in kept for event in reports.read_events(spool / path))
    except (OSError, ValueError) as error:
        raise EdgeError(f"a dose report cannot be read: {error}") from None
    sums = reports.sum_measures(events)
    if as_json:
        print_json({"reports": len(kept), "events": [asdict(each) for each in events], "sums": sums})
    elif not kept:
        say("This study has no dose report.", "yellow")
    else:
        stated = [name for name in reports.DOSE_LABELS if name in sums]
        rows: list[list[Cell]] = [[each.uid, *_values(each.measures, stated)] for each in events]
        headings = ["irradiation event", *(reports.DOSE_LABELS[name] for name in stated)]
        print_table(headings, [*rows, ["sum", *_values(sums, stated)]])


def _values(measures: Mapping[str, tuple[float, str]], names: Sequence[str]) -> list[Cell]:
    found = (measures.get(name) for name in names)
    return ["" if each is None else f"{each[0]:g} {each[1]}" for each in found]
