"""`edge run`."""

from __future__ import annotations

import sys

import click

from edge.cli.session import CommandSession
from edge.transform.syntaxes import NOT_FOR_THE_DAEMON


@click.command(short_help="Run the gateway in the foreground.")
@click.pass_obj
def run(session: CommandSession) -> None:
    """Run the gateway in the foreground, until SIGTERM or Ctrl-C.

    The systemd unit uses this command. SIGHUP reloads the configuration.

    \b
    Example:  edge run --config conf.d
    """
    sys.modules.update(dict.fromkeys(NOT_FOR_THE_DAEMON))  # type: ignore[arg-type]  # None: as if not installed
    from edge.query import process  # noqa: PLC0415  # all that the process which answers queries is made of
    from edge.scp import receiving  # noqa: PLC0415  # all that a receiving process is made of
    from edge.scp.dicomweb.start import run_web_door  # noqa: PLC0415
    from edge.scp.fork_server import ForkServer  # noqa: PLC0415

    server = ForkServer(receiving.run_receiver, process.run_answering, run_web_door, receiving.run_hl7_receiver)
    from edge.daemon.lifecycle import run as run_gateway  # noqa: PLC0415  # all that the gateway is made of

    sys.exit(run_gateway(session.directory, server))
