"""`edge queries`: what workstations and modalities have asked."""

from __future__ import annotations

import click

from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, local_time
from edge.store.asked import AskedRow, list_asked
from edge.store.listing import ListPart
from edge.text import iso, printable


def _describe_keys(each: AskedRow) -> str:
    from edge.query.listing import describe_keys  # noqa: PLC0415 - DICOM is slow to load

    return describe_keys(each.identifier, each.syntax)


def _describe_end(each: AskedRow) -> str:
    without = f", without {', '.join(each.left_out)}" if each.left_out else ""
    comment = f": {printable(each.comment)}" if each.comment else ""
    return f"{each.status:04X}{without}{comment}"


_COLUMNS: Columns[AskedRow] = {
    "asked": lambda each: local_time(each.at),
    "caller": lambda each: each.caller,
    "what": lambda each: each.what,
    "answers": lambda each: each.answers,
    "status": _describe_end,
    "took": lambda each: None if each.seconds is None else f"{each.seconds:.2f} s",
    "keys": _describe_keys,
}


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
    with session.catalog() as conn:
        found = read_part(list_asked(conn), part)
    session.record_list("edge queries list")
    print_part(found, _COLUMNS, "Nobody has asked anything yet.", as_json=as_json, json_of=_json)


def _json(each: AskedRow) -> dict[str, object]:
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
        "keys": _describe_keys(each),
    }
