"""The context of the commands of `edge central`: the configuration, the database, how an answer is printed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click

from edge.central import config as configuration
from edge.central import export
from edge.central.columns import CELLS, Column
from edge.central.config import CentralConfig
from edge.cli.tables import Cell, print_table, say
from edge.store.central import open_store
from edge.store.engine import EngineStore, EngineTransaction
from edge.text import moment_text

T = TypeVar("T")


class CentralSession:
    """One run of the command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def config(self) -> CentralConfig:
        return configuration.load(self.directory)

    def read(self, ask: Callable[[EngineTransaction, CentralConfig, float], T]) -> T:
        """What `ask` answers now."""
        return self._use(lambda store: store.read(lambda conn: ask(conn, self.config, time.time())))

    def change(self, work: Callable[[EngineTransaction], T]) -> T:
        """Run `work` in a transaction."""
        return self._use(lambda store: store.write(work))

    def _use(self, work: Callable[[EngineStore], Awaitable[T]]) -> T:
        async def run() -> T:
            async with open_store(self.config.database_url()) as store:
                return await work(store)

        return asyncio.run(run())


csv_option = click.option("as_csv", "--csv", is_flag=True, help="CSV, for spreadsheets.")


def _remember(ctx: click.Context, _parameter: click.Parameter, directory: Path | None) -> None:
    if directory is not None:
        ctx.obj = CentralSession(directory)


class CentralGroup(click.Group):
    """A group each of whose commands takes `--config`, before its name and after it."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.params.append(central_config_option(callback=_remember, expose_value=False))
        super().add_command(cmd, name)


def central_config_option(**more: Any) -> click.Option:
    return click.Option(
        ["--config"],
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Directory of the configuration (or EDGE_CENTRAL_CONFIG).  [default: /etc/edge-central/conf.d]",
        **more,
    )


def show_answer(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], none: str, as_json: bool, as_csv: bool
) -> None:
    """`none` is what is said where there are no rows."""
    if as_json:
        click.echo(export.as_json(rows), nl=False)
    elif as_csv:
        click.echo(export.as_csv(columns, rows), nl=False)
    elif rows:
        print_table([each.label for each in columns], [[cell(each, row) for each in columns] for row in rows])
    else:
        say(none)


def cell(column: Column, row: Mapping[str, Any]) -> Cell:
    value = row.get(column.key)
    if value is None:
        return None
    return _CELLS[column.kind](value) if column.kind in _CELLS else str(value)


_CELLS: Mapping[str, Callable[[Any], Cell]] = {
    **CELLS,
    "moment": moment_text,
    "count": round,
}
