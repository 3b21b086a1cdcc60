"""`edge prefetch`: earlier studies that are fetched ahead of appointments."""

from __future__ import annotations

import click

from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns
from edge.store import prefetch as store
from edge.store.listing import ListPart
from edge.store.prefetch import ListedPrefetch
from edge.text import scheduled_text

_COLUMNS: Columns[ListedPrefetch] = {
    "appointment": lambda each: scheduled_text(each.starts_at),
    "state": lambda each: each.state,
    "from": lambda each: each.source,
    "images": lambda each: each.instances,
    "fetched": lambda each: each.fetched,
    "reason": lambda each: each.last_error,
    "study UID": lambda each: each.study_uid,
}


@click.group(short_help="List earlier studies that are fetched ahead of appointments.")
def prefetch() -> None:
    """Show which earlier studies are fetched for the appointments of the worklist (`[prefetch.NAME]`)."""


@prefetch.command("list")
@part_options()
@json_option
@click.pass_obj
def list_studies(session: CommandSession, part: ListPart, as_json: bool) -> None:
    """List studies: those first that are still to be fetched.

    \b
    Examples:  edge prefetch list
               edge prefetch list --json | jq '.[] | select(.state == "wanted")'
    """
    with session.catalog() as conn:
        found = read_part(store.list_prefetches(conn), part)
    print_part(found, _COLUMNS, "No earlier study is wanted.", as_json=as_json)
