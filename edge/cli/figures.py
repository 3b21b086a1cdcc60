"""`edge figures`: what the equipment states and how soon studies are proved, without patients."""

from __future__ import annotations

import time

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, print_list
from edge.monitor.figures import SPAN_DAYS, SenderFigures, summarize
from edge.text import percent, span


def _share(share: float | None) -> str:
    return "" if share is None else percent(share)


_COLUMNS: Columns[SenderFigures] = {
    "AE title": lambda each: each.ae_title,
    "objects": lambda each: each.objects,
    "ID": lambda each: _share(each.patient_id_share),
    "acc": lambda each: _share(each.accession_share),
    "desc": lambda each: _share(each.description_share),
    "ref": lambda each: _share(each.referring_physician_share),
    "lossy": lambda each: _share(each.lossy_share),
    "priv": lambda each: _share(each.private_share),
    ">60s": lambda each: _share(each.slow_share),
    "proof": lambda each: "" if each.proof_median_seconds is None else span(each.proof_median_seconds),
    "dose": lambda each: each.dose_missing,
    "MWL": lambda each: "yes" if each.asks_worklist else "no",
}


@click.command(short_help="Show figures of the last week, without patients.")
@json_option
@click.pass_obj
def figures(session: CommandSession, as_json: bool) -> None:
    """Show for each sender what its objects of the last week state, and how soon its studies were proved.

    Columns: the share of objects with a Patient ID in form, accession number, study description and referring
    physician; the share that is lossy, and of private SOP classes; the share of studies whose first object was proved
    more than 60 s later, and the median of that time; X-ray studies without a dose report; whether it has ever asked
    for the worklist.

    \b
    Example:  edge figures
    """
    with session.catalog() as conn:
        found = summarize(conn, time.time())
    print_list(found, _COLUMNS, f"Nothing was received in the last {SPAN_DAYS} days.", as_json=as_json)
