"""`edge figures`: what the equipment states and how soon studies are proved, without patients."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Cell, print_json, print_table, say
from edge.monitor.figures import SPAN_DAYS, SenderFigures, summarize
from edge.text import percent, span

_HEADINGS = ["AE title", "objects", "ID", "acc", "desc", "ref", "lossy", "priv", ">60s", "proof", "dose", "MWL"]


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
    if as_json:
        print_json([asdict(each) for each in found])
    elif not found:
        say(f"Nothing was received in the last {SPAN_DAYS} days.")
    else:
        print_table(_HEADINGS, [_row(each) for each in found])


def _row(each: SenderFigures) -> list[Cell]:
    said = (each.patient_id_share, each.accession_share, each.description_share, each.referring_physician_share)
    proof = "" if each.proof_median_seconds is None else span(each.proof_median_seconds)
    return [
        each.ae_title,
        each.objects,
        *map(_share, (*said, each.lossy_share, each.private_share, each.slow_share)),
        proof,
        each.dose_missing,
        "yes" if each.asks_worklist else "no",
    ]


def _share(share: float | None) -> str:
    return "" if share is None else percent(share)
