"""`edge audit`: reports about access to patients' studies."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from dataclasses import asdict, astuple, fields
from itertools import chain
from math import inf

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.studies import since_option
from edge.cli.tables import Columns, jsonable, local_time, print_json, print_rows
from edge.errors import EdgeError
from edge.messaging.audit.report import ReportRequest, ReportRow, folded_report, folded_studies, report
from edge.store.audit_trail import studies_of_patient
from edge.store.patient_search import list_same_numbers
from edge.text import iso, quote_formula

_COLUMNS: Columns[ReportRow] = {
    "first": lambda each: local_time(each.first_at),
    "last": lambda each: local_time(each.last_at) if each.last_at != each.first_at else "",
    "who": lambda each: each.who,
    "what": lambda each: each.what,
    "images": lambda each: each.images or "",
    "from": lambda each: each.source,
    "to": lambda each: each.destination,
    "patient ID": lambda each: each.patient_id,
    "study UID": lambda each: each.study_uid,
    "detail": lambda each: each.detail,
}


@click.group(short_help="Report access to patients' studies.")
def audit() -> None:
    """Report access to patients' studies, from the custody ledger."""


@audit.command("report", short_help="Report who did what with a patient's studies, a study, or in a period.")
@click.option("--patient", metavar="ID", help="All studies of this Patient ID and those merged with it.")
@click.option("--study", metavar="UID", help="This Study Instance UID.")
@click.option("--since", callback=since_option, metavar="WHEN", help='Since: "2d", "12h", 2026-11-21.')
@click.option("--until", callback=since_option, metavar="WHEN", help="Until, in the same forms.")
@click.option("--reason", default="", metavar="TEXT", help="Why you run the report; recorded in the ledger.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, for a spreadsheet.")
@json_option
@click.pass_obj
def report_command(
    session: CommandSession,
    patient: str | None,
    study: str | None,
    since: float,
    until: float,
    reason: str,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Report who received, sent, viewed, changed or deleted images; when, from where and to where.

    Images that were transferred together are one line. The report itself is recorded in the ledger first.

    \b
    Examples:  edge audit report --patient 4711 --reason "complaint of 3 November"
               edge audit report --since 2026-11-01 --csv > november.csv
    """
    if patient is None and study is None and not since:
        raise click.UsageError("select by --patient ID, --study UID or --since WHEN")
    if as_csv and as_json:
        raise click.UsageError("either --csv or --json")
    with session.catalog() as conn:
        numbers = None if patient is None else list_same_numbers(conn, [patient])
        asked = ReportRequest(numbers, study, since, until or inf)
        chosen = studies_of_patient(conn, None if patient is None else [patient], study)
        folded = folded_studies(conn, asked)
    named = patient is not None or study is not None
    chosen += [each.study_id for each in folded if named and each.study_id not in chosen]
    if not chosen and (patient is not None or study is not None):
        raise EdgeError("no such study has been received; search with `edge studies list --search TEXT`")
    if session.daemon_runs or session.has_catalog:  # reading the trail of a patient's studies is access to them
        session.change("audit-reported", studies=chosen, why=reason)
    with session.quiet_catalog() as conn:
        _print(chain(folded_report(conn, asked, folded), report(conn, asked, chosen)), as_csv, as_json)


def _print(lines: Iterable[ReportRow], as_csv: bool, as_json: bool) -> None:
    if as_json:
        print_json([_json(each) for each in lines])
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(field.name for field in fields(ReportRow))
        writer.writerows(map(_csv_row, lines))
    else:
        print_rows(_COLUMNS, lines)


def _json(row: ReportRow) -> dict[str, object]:
    found = jsonable(asdict(row))
    assert isinstance(found, dict)
    return found


def _csv_row(row: ReportRow) -> list[object]:
    return [quote_formula(cell) for cell in (iso(row.first_at), iso(row.last_at), *astuple(row)[2:])]
