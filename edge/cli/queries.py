"""`edge queries`: what workstations and modalities have asked."""

from __future__ import annotations

import click

from edge.cli.parts import part_options, say_part
from edge.cli.session import CommandSession, json_option
from edge.cli.studies import local_time
from edge.cli.tables import Cell, print_json, print_table, say
from edge.store.asked import AskedRow, list_asked
from edge.store.listing import ListPart
from edge.text import iso, printable


@click.group(short_help="List what workstations and modalities have asked.")
def queries() -> None:
    """Show what was asked by C-FIND, C-MOVE, C-GET and as worklist, with the caller, and how it ended."""


@queries.command("list")
@part_options()
@json_option
@click.pass_obj
def list_queries(session: CommandSession, part: ListPart, as_json: bool) -> None:
    """List the latest questions first, with their keys. It shows patient data.

    \b
    Examples:  edge queries list
               edge queries list --json | jq '.[] | select(.status != "0000")'
    """
    from edge.query.listing import describe_keys  # noqa: PLC0415 - DICOM is slow to load

    with session.catalog() as conn:
        listing = list_asked(conn)
        found, total = listing.read(part), listing.count()
    session.record_list("edge queries list")

    def row(each: AskedRow) -> list[Cell]:
        took = f"{each.seconds:.2f} s" if each.seconds is not None else ""
        keys = describe_keys(each.identifier, each.syntax)
        without = f", without {', '.join(each.left_out)}" if each.left_out else ""
        status = f"{each.status:04X}{without}" + (f": {printable(each.comment)}" if each.comment else "")
        return [local_time(each.at), each.caller, each.what, each.answers, status, took, keys]

    if as_json:
        print_json([_json(each, describe_keys(each.identifier, each.syntax)) for each in found])
    elif found:
        print_table(["asked", "caller", "what", "answers", "status", "took", "keys"], map(row, found))
    elif not total:
        say("Nobody has asked anything yet.", "green")
    say_part(part, len(found), total, as_json=as_json)


def _json(each: AskedRow, keys: str) -> dict[str, object]:
    return {
        "at": iso(each.at),
        "caller": each.caller,
        "address": each.address,
        "what": each.what,
        "answers": each.answers,
        "status": f"{each.status:04X}",
        "seconds": each.seconds,
        "left_out": list(each.left_out),
        "comment": each.comment,
        "keys": keys,
    }
