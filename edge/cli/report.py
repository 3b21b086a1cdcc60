"""`edge report`: the month of this site."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import print_json, print_table, say
from edge.errors import EdgeError
from edge.monitor.monthly import month_of, monthly_report
from edge.monitor.monthly_text import report_csv, report_tables, summary_lines
from edge.spool.room import disk_of


@click.command(short_help="Report a month: downtimes, volumes, capacity.")
@click.option("--month", default="", metavar="YYYY-MM", help="The month.  [default: the last whole one]")
@click.option("--csv", "csv_", is_flag=True, help="CSV, for spreadsheets.")
@json_option
@click.pass_obj
def report(session: CommandSession, month: str, csv_: bool, as_json: bool) -> None:
    """Report a month of this site: downtimes, volumes, answers, alerts, equipment, and capacity for five years.

    It names no patient. The console has the same as a page to print.

    \b
    Examples:  edge report --month 2026-11
               edge report --csv > month.csv
    """
    now = time.time()
    try:
        chosen = month_of(month, session.config.calendar, now)
    except EdgeError as error:
        raise click.BadParameter(str(error)) from None
    with session.quiet_catalog() as conn:
        found = monthly_report(conn, session.config, disk_of(session.data_dir), chosen, now)
    if as_json:
        print_json(asdict(found))
        return
    if csv_:
        click.echo(report_csv(found), nl=False)
        return
    say(f"{found.site_name}, {found.month.name}", "bold")
    for line in summary_lines(found):
        say(line)
    for each in report_tables(found):
        say("")
        say(each.title, "bold")
        if each.note:
            say(each.note)
        if each.rows:
            print_table(list(each.columns), [list(row) for row in each.rows])
        else:
            say(each.none)
