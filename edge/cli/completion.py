"""Completions for the shell: names of the configuration. Faults of the configuration complete nothing, silently."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

from edge.cli.session import CommandSession
from edge.errors import EdgeError


def _names(ctx: click.Context, table: str, incomplete: str) -> list[CompletionItem]:
    session = ctx.find_object(CommandSession) or CommandSession()
    try:
        found: Iterable[str] = getattr(session.config, table)
    except (EdgeError, OSError):
        return []
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


def complete_destination(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _names(ctx, "destinations", incomplete)


def complete_maintenance(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _names(ctx, "maintenances", incomplete)


#: Names of parameters -> what fills them in, in every command.
COMPLETIONS = {"destination": complete_destination, "other": complete_destination, "planned": complete_maintenance}


def fill_in_names(command: click.Command) -> None:
    """Let the shell fill in names of the configuration for a command and those in it."""
    for each in command.params:
        if (complete := COMPLETIONS.get(each.name or "")) is not None:
            each._custom_shell_complete = complete
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        fill_in_names(inner)
