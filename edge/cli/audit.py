"""`edge audit`: who touched what, for whoever must answer after a breach."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, fields
from math import inf

import click

from edge.audit.report import Asked, ReportRow, report, studies
from edge.cli.session import Session, config_option, json_option, login
from edge.cli.studies import local, since_option
from edge.cli.tables import Cell, jsonable, print_json, print_table
from edge.errors import EdgeError
from edge.store import access_log
from edge.text import iso

#: A spreadsheet takes a cell that begins so for a formula, and runs it.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@click.group(short_help="Who touched what.")
@config_option
def audit() -> None:
    """Who touched what, by the custody ledger."""


@audit.command("report", short_help="Who touched a patient's studies, a study, or anything at a time.")
@click.option("--patient", metavar="ID", help="All studies of this Patient ID.")
@click.option("--study", metavar="UID", help="This Study Instance UID.")
@click.option("--since", callback=since_option, metavar="WHEN", help='From then on: "2d", "12h", 2026-11-21.')
@click.option("--until", callback=since_option, metavar="WHEN", help="Up to then, as --since.")
@click.option("--reason", default="", metavar="TEXT", help="Why you look, for the ledger.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, for a spreadsheet.")
@json_option
@config_option
@click.pass_obj
def report_command(
    session: Session,
    patient: str | None,
    study: str | None,
    since: float,
    until: float,
    reason: str,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Who touched what: received, sent, viewed, changed, deleted; when, by whom, from where and to where.

    Images that came or went together are one line. That you looked is written into the ledger first.

    \b
    Examples:  edge audit report --patient 4711 --reason "complaint of 3 November"
               edge audit report --since 2026-11-01 --until 2026-11-08 --csv > week.csv
    """
    if patient is None and study is None and not since:
        raise click.UsageError("say what about: --patient ID, --study UID or --since WHEN")
    if as_csv and as_json:
        raise click.UsageError("either --csv or --json")
    asked = Asked(patient, study, since, until or inf)
    with session.catalog() as conn:
        chosen = studies(conn, asked)
    if not chosen and (patient is not None or study is not None):
        raise EdgeError("no such study has been received; `edge studies list --search TEXT` looks for one")
    _record(session, chosen, reason)
    with session.quiet_catalog() as conn:
        _print(report(conn, asked, chosen), as_csv, as_json)


def _record(session: Session, chosen: Sequence[int], reason: str) -> None:
    """To look at the trail of a patient's studies is to look at the patient's data."""
    who = login()
    if session.daemon_runs:
        session.ask("audit-reported", studies=list(chosen), who=who, why=reason)
    elif session.has_catalog:
        session.change(lambda conn: access_log.reported(conn, time.time(), who, chosen, reason))


def _print(lines: Iterable[ReportRow], as_csv: bool, as_json: bool) -> None:
    if as_json:
        print_json([_json(each) for each in lines])
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(field.name for field in fields(ReportRow))
        writer.writerows(map(_csv_row, lines))
    else:
        columns = ["first", "last", "who", "what", "images", "from", "to", "patient ID", "study UID", "detail"]
        print_table(columns, [_row(each) for each in lines])


def _json(told: ReportRow) -> dict[str, object]:
    found = jsonable(asdict(told))
    assert isinstance(found, dict)
    return found


def _csv_row(told: ReportRow) -> list[str | int | float]:
    return [harmless(cell) for cell in (iso(told.first_at), iso(told.last_at), *astuple(told)[2:])]


def _row(told: ReportRow) -> list[Cell]:
    return [
        local(told.first_at),
        local(told.last_at) if told.last_at != told.first_at else "",
        told.who,
        told.what,
        told.images or "",
        told.source,
        told.destination,
        told.patient_id,
        told.study_uid,
        told.detail,
    ]


def harmless(cell: str | int | float) -> str | int | float:
    """Text that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
