"""`edge ledger`: the custody ledger as a whole; `edge prove` has its rows about one study."""

from __future__ import annotations

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import fail_unless, print_json, progress_bar, say
from edge.store import ledger as store
from edge.store.ledger import Head


def _heads(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[Head, ...]:
    try:
        return tuple(map(Head.parse, given))
    except ValueError as error:
        raise click.BadParameter(
            f"expected NUMBER:64 HEXADECIMAL DIGITS, as `edge ledger head` prints it, found {error}"
        ) from None


@click.group(short_help="Verify the custody ledger, and print its head.")
def ledger() -> None:
    """Verify the custody ledger, and print its head."""


@ledger.command(short_help="Print number and hash of the newest row.")
@json_option
@click.pass_obj
def head(session: CommandSession, as_json: bool) -> None:
    """Print number and hash of the newest row. Keep it elsewhere, to detect later that the ledger was rewritten.

    \b
    Example:  edge ledger head >> /mnt/elsewhere/edge-heads.txt
    """
    with session.catalog() as conn:
        found = store.head(conn)
    if as_json:
        print_json({"seq": found.seq, "head": found.hash.hex()})
    else:
        click.echo(str(found))


@ledger.command(short_help="Verify the chain of the ledger.")
@click.option(
    "--head",
    "heads",
    metavar="SEQ:HASH",
    multiple=True,
    callback=_heads,
    help="A head that was kept elsewhere; can be repeated.",
)
@json_option
@click.pass_obj
def verify(session: CommandSession, heads: tuple[Head, ...], as_json: bool) -> None:
    """Verify the chain of hashes from the first row to the last. Exit 1 when it is broken.

    A changed, removed, inserted or reordered row breaks the chain. A truncated ledger, and a chain rebuilt from some
    row on, are detected with a head that was kept elsewhere: by `edge ledger head`, or at the central office.

    \b
    Examples:  edge ledger verify
               edge ledger verify --head "$(tail -1 edge-heads.txt)"
    """
    with session.catalog() as conn, progress_bar("checking the ledger", store.head(conn).seq) as tick:
        end, broken = store.head(conn), store.check(conn, tick=tick)
        unknown = [each for each in heads if not store.has(conn, each)]
    whole = broken is None and not unknown
    if as_json:
        print_json(
            {
                "whole": whole,
                "rows": end.seq,
                "head": end.hash.hex(),
                "broken": {"seq": broken.seq, "text": broken.text} if broken else None,
                "heads_not_found": [str(each) for each in unknown],
            }
        )
    elif whole:
        kept = f", and has {len(heads)} of {len(heads)} heads kept elsewhere" if heads else ""
        say(f"Whole: {end.seq:,} rows form one chain{kept}; head {end}", "bold green")
    else:
        _print_broken(end, broken, unknown)
    fail_unless(whole)


def _print_broken(end: Head, broken: store.Broken | None, unknown: list[Head]) -> None:
    say("BROKEN: the custody ledger was altered or damaged.", "bold red")
    if broken:
        say(f"  row {broken.seq:,}: {broken.text}", "red")
    for each in unknown:
        why = "the ledger ends before it: rows were removed" if each.seq > end.seq else "earlier rows were rewritten"
        say(f"  head {each}: not in the ledger; {why}", "red")
    say("Keep a copy of the data directory, find out who had access, and compare with the heads at the centre.")
