"""`edge worklist`: what modalities are served as worklist, and how old it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from edge.cli.deciding import reason_option
from edge.cli.parts import ListedPart, part_options, rows_for, say_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, local_time, print_json, print_rows, say
from edge.errors import EdgeError
from edge.store.listing import ListPart
from edge.text import age, amount, iso_or_none, scheduled_text

if TYPE_CHECKING:
    from edge.query.listing import ListedItem  # DICOM is slow to load

_COLUMNS: Columns[ListedItem] = {
    "scheduled": lambda each: scheduled_text(each.scheduled),
    "modality": lambda each: each.modality,
    "station": lambda each: each.station_ae,
    "accession": lambda each: each.accession,
    "patient": lambda each: f"{each.patient_name} ({each.patient_id})",
    "status": lambda each: each.status.lower(),
}


@click.group(short_help="List the worklist that modalities are served.")
def worklist() -> None:
    """Show the modality worklist (`[modality] services` with "worklist", `[worklist]`)."""


@worklist.command("list", short_help="List the items that modalities are served.")
@click.option("--all", "everything", is_flag=True, help="Steps that are over as well, which are not served any more.")
@part_options(5_000)
@json_option
@click.pass_obj
def list_items(session: CommandSession, everything: bool, part: ListPart, as_json: bool) -> None:
    """List the items that modalities are served, the earliest first, and the age of the list. It shows patient data.

    \b
    Examples:  edge worklist list
               edge worklist list --json | jq '.stale, .as_of'
    """
    from edge.monitor.worklist import read_worklist_state  # noqa: PLC0415 - with the catalog's queries
    from edge.query.listing import MOST_LISTED_ITEMS, list_worklist  # noqa: PLC0415 - DICOM is slow to load

    now = time.time()
    with session.catalog() as conn:
        state = read_worklist_state(conn, session.config, now)
        listed, has_more = list_worklist(conn, max(MOST_LISTED_ITEMS, rows_for(part)))
    session.record_list("edge worklist list")
    chosen = [each for each in listed if everything or not each.is_ended]
    found = ListedPart(part, chosen[part.skip : part.skip + part.limit], None if has_more else len(chosen))
    if as_json:
        print_json({"as_of": iso_or_none(state.as_of), "stale": state.is_stale, "items": found.rows})
        return say_part(found, as_json=True)
    if state.as_of is None:
        return say("There is no worklist: no source has answered yet, or no modality is served one.", "yellow")
    if found.rows:
        print_rows(_COLUMNS, found.rows)
    stale = ", and it cannot be refreshed" if state.is_stale else ""
    words = f"{amount(len(chosen), 'item')}, as of {local_time(state.as_of)} ({age(now - state.as_of)} ago{stale})"
    say(words, "yellow" if state.is_stale else "green")
    return say_part(found, as_json=False)


@worklist.command("refresh", short_help="Ask the worklist's source now.")
@reason_option
@click.pass_obj
def refresh(session: CommandSession, reason: str) -> None:
    """Ask the worklist's source (`[worklist] from`) at once, rather than when the next refresh is due.

    \b
    Example:  edge worklist refresh --reason "the RIS is back"
    """
    source = session.config.worklist.from_
    if not source:
        raise EdgeError("the worklist has no source: it is made of the orders that HL7 brings, and is always current")
    session.change("worklist-refresh", source=source, reason=reason)
    say(f"{source} is asked at once." if session.daemon_runs else f"{source} is asked when the gateway runs.")
