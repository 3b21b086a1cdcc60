"""`edge ledger`: the custody ledger as a whole; `edge prove` shows what it says of one study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import Progress

from edge.cli.session import Session, config_option, json_option
from edge.cli.tables import print_json, say
from edge.store import ledger as store
from edge.store.ledger import Head


def _heads(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[Head, ...]:
    try:
        return tuple(map(Head.parse, given))
    except ValueError as error:
        told = "expected NUMBER:64 HEXADECIMAL DIGITS, as `edge ledger head` prints it"
        raise click.BadParameter(f"{told}, found {error}") from None


@click.group()
@config_option
def ledger() -> None:
    """The custody ledger: is it what was written, and where does it end."""


@ledger.command(short_help="Where the ledger ends now.")
@json_option
@config_option
@click.pass_obj
def head(session: Session, as_json: bool) -> None:
    """Number and hash of the newest row, to be kept elsewhere: it shows later whether the past was rewritten.

    \b
    Example:  edge ledger head >> /mnt/elsewhere/edge-heads.txt
    """
    with session.catalog() as conn:
        found = store.head(conn)
    if as_json:
        print_json({"seq": found.seq, "head": found.hash.hex()})
    else:
        click.echo(str(found))


@ledger.command(short_help="Has anybody changed the ledger?")
@click.option(
    "--head",
    "heads",
    metavar="SEQ:HASH",
    multiple=True,
    callback=_heads,
    help="A head that was kept elsewhere; may be given repeatedly.",
)
@json_option
@config_option
@click.pass_obj
def verify(session: Session, heads: tuple[Head, ...], as_json: bool) -> None:
    """Follow the chain of hashes from the first row to the last. Exit 1 when it is broken.

    A changed, removed, inserted or reordered row breaks the chain. Rows cut off its end, and a chain made anew from
    some row on, show by a head that was kept elsewhere: `edge ledger head`, or the central office.

    \b
    Examples:  edge ledger verify
               edge ledger verify --head 4711:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    """
    with session.catalog() as conn, _progress(store.head(conn).seq) as tick:
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
        say(f"Whole: {end.seq:,} rows follow from each other{kept}; head {end}", "bold green")
    else:
        _print_broken(end, broken, unknown)
    if not whole:
        raise SystemExit(1)


def _print_broken(end: Head, broken: store.Broken | None, unknown: list[Head]) -> None:
    say("BROKEN: the ledger is not what was written.", "bold red")
    if broken:
        say(f"  row {broken.seq:,}: {broken.text}", "red")
    for each in unknown:
        why = "the ledger ends before it: rows were cut off" if each.seq > end.seq else "the past was rewritten"
        say(f"  head {each}: not in the ledger; {why}", "red")
    say("Keep a copy of the data directory, find out who could write there, and ask the central office for its heads.")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Shown on a terminal only, and gone when it ends."""
    beside = Console(stderr=True)
    with Progress(console=beside, transient=True, disable=not beside.is_terminal) as progress:
        task = progress.add_task("checking the ledger", total=total)
        yield lambda done: progress.update(task, completed=done)
