"""`edge commitments`: what modalities have asked as storage commitment, and who still waits for a report."""

from __future__ import annotations

import click

from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, local_time
from edge.store import commitment_requests
from edge.store.commitment_requests import ListedRequest
from edge.store.listing import ListPart

_COLUMNS: Columns[ListedRequest] = {
    "modality": lambda each: each.modality,
    "state": lambda each: each.state,
    "images": lambda each: each.instances,
    "failed": lambda each: each.failed,
    "asked": lambda each: local_time(each.requested_at),
    "reported": lambda each: local_time(each.reported_at),
    "next try": lambda each: local_time(each.next_try_at),
    "reason": lambda each: each.last_error,
    "transaction UID": lambda each: each.transaction_uid,
}


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
        found = read_part(commitment_requests.list_requests(conn, only_open=only_open), part)
    print_part(found, _COLUMNS, "No modality waits for a report on storage commitment.", as_json=as_json)
