"""The parts of a long list: `--limit` and `--skip`, and which rows of how many were listed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click

from edge.cli.session import print_note
from edge.cli.tables import Columns, print_list, say
from edge.store.listing import Listing, ListPart

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


@dataclass(frozen=True, slots=True)
class ListedPart(Generic[T]):
    """The rows of a part of a list, and how many there are in all; `total` None: there are more."""

    part: ListPart
    rows: Sequence[T]
    total: int | None


def read_part(listing: Listing[T], part: ListPart) -> ListedPart[T]:
    return ListedPart(part, listing.read(part), listing.count())


def rows_for(part: ListPart) -> int:
    """Return how many rows are to be read for `cut_part`."""
    return part.skip + part.limit + 1


def cut_part(found: Sequence[T], part: ListPart) -> ListedPart[T]:
    """Cut a part out of the first rows of a list."""
    total = None if len(found) >= rows_for(part) else len(found)
    return ListedPart(part, found[part.skip : part.skip + part.limit], total)


def print_part(
    found: ListedPart[T],
    columns: Columns[T],
    none: str,
    *,
    as_json: bool,
    json_of: Callable[[T], object] = lambda row: row,
) -> None:
    """Print a part of a list, as `print_list` does, and say which part it is."""
    if as_json or found.rows or not found.total:
        print_list(found.rows, columns, none, as_json=as_json, json_of=json_of)
    say_part(found, as_json=as_json)


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


def say_part(found: ListedPart[T], *, as_json: bool) -> None:
    """Say below a list, or beside JSON, which part of it this is."""
    if text := describe_part(found.part, len(found.rows), found.total):
        print_note(text) if as_json else say(text)
