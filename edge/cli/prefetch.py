"""`edge prefetch`: earlier studies that are fetched ahead of appointments."""

from __future__ import annotations

import click

from edge.cli.parts import part_options, say_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Cell, print_json, print_table, say
from edge.store import prefetch as store
from edge.store.listing import ListPart
from edge.store.prefetch import ListedPrefetch
from edge.text import scheduled_text


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
        listing = store.list_prefetches(conn)
        found, total = listing.read(part), listing.count()
    if as_json:
        print_json(found)
    elif found:
        print_table(["appointment", "state", "from", "images", "fetched", "reason", "study UID"], map(_row, found))
    elif not total:
        say("No earlier study is wanted.", "green")
    say_part(part, len(found), total, as_json=as_json)


def _row(each: ListedPrefetch) -> list[Cell]:
    starts = scheduled_text(each.starts_at)
    return [starts, each.state, each.source, each.instances, each.fetched, each.last_error, each.study_uid]
