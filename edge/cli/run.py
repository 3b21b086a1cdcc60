"""`edge run`."""

from __future__ import annotations

import sys

import click

from edge.cli.session import Session, config_option
from edge.transform.syntaxes import NOT_FOR_THE_DAEMON


@click.command(short_help="Run the gateway in the foreground.")
@config_option
@click.pass_obj
def run(session: Session) -> None:
    """Run the gateway in the foreground, until SIGTERM or Ctrl-C.

    systemd does this; SIGHUP reads the configuration anew.

    \b
    Example:  edge run --config conf.d
    """
    sys.modules.update(dict.fromkeys(NOT_FOR_THE_DAEMON))  # type: ignore[arg-type]  # None: as if not installed
    from edge import daemon  # noqa: PLC0415  # all that the gateway is made of: no other command needs it

    sys.exit(daemon.run(session.directory))
