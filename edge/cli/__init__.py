"""The `edge` command: what people type. Each group has its file; errors come out as one line, never as a trace.

Exit 0: done. 1: the answer is no (unreachable, not proved, unhealthy). 2: bad usage or configuration.
"""

from __future__ import annotations

import os
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from edge import __version__
from edge.cli.completion import fill_in_names
from edge.cli.session import CommandSession, add_config_option, print_note
from edge.errors import ConfigError, EdgeError

EXIT_NO, EXIT_USAGE = 1, 2

#: What `edge --help` lists, by heading: the file of each command, imported when it is typed: most need no DICOM, which
#: takes half a second to load.
GROUPS = {
    "Every day": {
        "status": "status",
        "alerts": "alerts",
        "queue": "queue",
        "studies": "studies",
        "instances": "instances",
        "prove": "prove",
        "import": "importing",
    },
    "Equipment and archives": {
        "modality": "modality",
        "destination": "destination",
        "clients": "clients",
        "route": "route",
        "echo": "echo",
        "link": "link",
        "maintenance": "maintenance",
    },
    "Orders and appointments": {
        "orders": "orders",
        "hl7": "hl7",
        "worklist": "worklist",
        "mpps": "mpps",
        "prefetch": "prefetch",
        "queries": "queries",
        "commitments": "commitments",
    },
    "On record": {
        "audit": "audit",
        "ledger": "ledger",
        "figures": "figures",
        "report": "report",
        "statement": "statement",
    },
    "Set up": {
        "init": "init",
        "check": "check",
        "config": "configuration",
        "notify": "notify",
        "console": "console",
        "schema": "schema",
        "version": "check",
    },
    "Run": {
        "run": "run",
        "ready": "ready",
        "standby": "standby",
        "central": "central",
    },
    "Check and repair": {
        "verify": "verify",
        "recover": "recover",
        "restore": "restore",
        "drill": "drill",
    },
}
COMMANDS = {name: file for group in GROUPS.values() for name, file in group.items()}


class _Root(click.Group):
    """Finds the commands, and turns what is raised on purpose into a line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
            command = getattr(import_module(f"edge.cli.{COMMANDS[cmd_name]}"), name)
        except ModuleNotFoundError as error:
            if error.name != "sqlalchemy":
                raise
            return _central_is_missing
        assert isinstance(command, click.Command)
        add_config_option(command)
        if "_EDGE_COMPLETE" in os.environ:
            fill_in_names(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A heading for each group; a column that is as wide in all of them."""
        width = max(map(len, COMMANDS))
        for heading, names in GROUPS.items():
            found = ((name, self.get_command(ctx, name)) for name in names)
            lines = [
                (name.ljust(width), command.get_short_help_str(formatter.width)) for name, command in found if command
            ]
            with formatter.section(heading):
                formatter.write_dl(lines)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(problem, err=True)
            raise SystemExit(EXIT_USAGE) from None
        except EdgeError as error:
            print_note(str(error))
        except PermissionError as error:
            print_note(f"not allowed to read {error.filename}: run this as its owner, such as `sudo -u edge edge ...`")
        except OSError as error:
            print_note(f"{type(error).__name__}: {error}")
        raise SystemExit(EXIT_NO)


@click.command(
    "central",
    short_help="Monitor all sites at the central office (not installed).",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _central_is_missing(arguments: tuple[str, ...]) -> None:
    raise ConfigError(["edge central: not installed. Install the package edge-central of this version, then try again"])


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="edge %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Edge stores images from scanners, forwards them over an unreliable network, and proves that they arrived.

    \b
    Start with:  edge status
    Exit codes:  0 success; 1 the answer is no, or something failed;
                 2 wrong usage or configuration
    Old names:   the manual lists the names of version 0.1 that still work
    """
    ctx.ensure_object(CommandSession)


add_config_option(cli)


def main() -> None:
    """The entry point of `edge` and of `python -m edge`."""
    cli(prog_name="edge")
