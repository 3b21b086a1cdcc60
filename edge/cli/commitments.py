"""`edge commitments`: what modalities have asked as storage commitment, and who still waits for a report."""

from __future__ import annotations

import click

from edge.cli.parts import part_options, say_part
from edge.cli.session import CommandSession, json_option
from edge.cli.studies import local_time
from edge.cli.tables import Cell, print_json, print_table, say
from edge.store import commitment_requests
from edge.store.commitment_requests import ListedRequest
from edge.store.listing import ListPart


@click.group(short_help="List requests for storage commitment by modalities.")
def commitments() -> None:
    """Show what modalities have asked as storage commitment (`[modality] services` with "commit").

    A request is waiting until it is known of each image whether it is in custody, decided while its report is owed,
    and reported once the modality has acknowledged the report.
    """


@commitments.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only those without an acknowledged report.")
@part_options()
@json_option
@click.pass_obj
def list_commitments(session: CommandSession, only_open: bool, part: ListPart, as_json: bool) -> None:
    """List requests: those without a report first, then the newest. Reported ones are listed for 30 days.

    \b
    Examples:  edge commitments list
               edge commitments list --json | jq '.[] | .state'
    """
    with session.catalog() as conn:
        listing = commitment_requests.list_requests(conn, only_open=only_open)
        found, total = listing.read(part), listing.count()
    if as_json:
        print_json(found)
    elif found:
        columns = [
            "modality",
            "state",
            "images",
            "failed",
            "asked",
            "reported",
            "next try",
            "reason",
            "transaction UID",
        ]
        print_table(columns, map(request_row, found))
    elif not total:
        say("No modality waits for a report on storage commitment.", "green")
    say_part(part, len(found), total, as_json=as_json)


def request_row(each: ListedRequest) -> list[Cell]:
    return [
        each.modality,
        each.state,
        each.instances,
        each.failed,
        local_time(each.requested_at),
        local_time(each.reported_at),
        local_time(each.next_try_at),
        each.last_error,
        each.transaction_uid,
    ]
