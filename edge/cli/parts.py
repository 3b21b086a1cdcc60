"""The parts of a long list: `--limit` and `--skip`, and which rows of how many were listed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from edge.cli.session import print_note
from edge.cli.tables import say
from edge.store.listing import ListPart

_Command = Callable[..., Any]
T = TypeVar("T")


def part_options(most: int = 50) -> Callable[[_Command], _Command]:
    """Give a command the options of a list; it gets them as `part`. `most`: what it lists without them."""

    def decorate(command: _Command) -> _Command:
        @functools.wraps(command)
        def run(*args: Any, limit: int, skip: int, **fields: Any) -> Any:
            return command(*args, part=ListPart(limit, skip), **fields)

        rows = click.IntRange(1, 100_000)
        limiting = click.option("--limit", default=most, type=rows, show_default=True, help="The most to list.")
        skipping = click.option("--skip", default=0, type=click.IntRange(0), metavar="N", help="Leave out the first N.")
        return limiting(skipping(run))

    return decorate


def rows_for(part: ListPart) -> int:
    """Return how many rows are to be read for `cut_part`."""
    return part.skip + part.limit + 1


def cut_part(part: ListPart, found: Sequence[T]) -> tuple[Sequence[T], int | None]:
    """Cut a part out of the first rows of a list. Returns it with the number of all; None: there are more."""
    rows = found[part.skip : part.skip + part.limit]
    return rows, None if len(found) >= rows_for(part) else len(found)


def describe_part(part: ListPart, shown: int, total: int | None) -> str:
    """Say which rows were listed, and how to see the next ones; empty: they are all. `total` None: there are more."""
    if shown == total:
        return ""
    if not shown:
        there = "" if total is None else f"There are {total:,}; "
        return f"{there}--skip {part.skip} leaves out all of them."
    end = part.skip + shown
    of = "" if total is None else f" of {total:,}"
    more = f"; --skip {end} lists the next ones" if end != total else ""
    return f"{part.skip + 1:,} to {end:,}{of} are listed{more}."


def say_part(part: ListPart, shown: int, total: int | None, *, as_json: bool) -> None:
    """Say below a list, or beside JSON, which part of it this is."""
    if text := describe_part(part, shown, total):
        print_note(text) if as_json else say(text)
