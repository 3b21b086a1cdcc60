"""The parts of a long list: `--limit` and `--skip`, and which rows of how many were listed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from edge.cli.session import print_note
from edge.cli.tables import say
from edge.store.listing import ListPart

_Command = Callable[..., Any]


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


def describe_part(part: ListPart, shown: int, total: int) -> str:
    """Say which rows were listed, and how to see the next ones; empty: they are all."""
    if shown == total:
        return ""
    if not shown:
        return f"There are {total:,}; --skip {part.skip} leaves out all of them."
    end = part.skip + shown
    more = f"; --skip {end} lists the next ones" if end < total else ""
    return f"{part.skip + 1:,} to {end:,} of {total:,} are listed{more}."


def say_part(part: ListPart, shown: int, total: int, *, as_json: bool) -> None:
    """Say below a list, or beside JSON, which part of it this is."""
    if text := describe_part(part, shown, total):
        print_note(text) if as_json else say(text)
