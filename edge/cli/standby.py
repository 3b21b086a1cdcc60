"""`edge standby`: whether only one machine can mount the file system of the data directory."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edge.cli.session import CommandSession
from edge.cli.tables import fail_unless, say


@click.command(short_help="Check the multi-mount protection.")
@click.option(
    "--note",
    "runtime",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write the answer into DIR, for the gateway.",
)
@click.pass_obj
def standby(session: CommandSession, runtime: Path | None) -> None:
    """Check whether the file system of data_dir has ext4's multi-mount protection. Exit 1 if it has not.

    It must run as root, to read the device. The drop-in standby.conf of the service calls it with --note.

    \b
    Example:  edge standby
    """
    from edge.daemon.standby import note_protection, protection_of  # noqa: PLC0415 - with the start's checks

    path = session.data_dir
    found = note_protection(path, runtime) if runtime else protection_of(path)
    if found.is_protected is None:
        say(f"{found.device} may not be read by {os.environ.get('USER', 'this user')}: run this as root.", "yellow")
    elif found.is_protected:
        say(f"{found.device} ({found.kind}) has multi-mount protection.", "green")
    else:
        say(f"{found.device} ({found.kind}) has no multi-mount protection.", "bold red")
    fail_unless(bool(found.is_protected))
