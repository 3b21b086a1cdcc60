"""`edge run`."""

from __future__ import annotations

import ctypes
import sys

import click

from edge.cli.session import CommandSession

_M_ARENA_MAX, ARENAS = -8, 2  # mallopt(3)


def use_few_arenas() -> None:
    """A heap for each thread, fragmented, is most of what a long-lived process of many threads appears to leak."""
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


@click.command(short_help="Run the gateway in the foreground.")
@click.pass_obj
def run(session: CommandSession) -> None:
    """Run the gateway in the foreground, until SIGTERM or Ctrl-C.

    The systemd unit uses this command. SIGHUP reloads the configuration.

    \b
    Example:  edge run --config conf.d
    """
    use_few_arenas()
    # All that the processes are made of which are forked: they share it.
    from edge.query import process  # noqa: PLC0415
    from edge.scp import receiving  # noqa: PLC0415
    from edge.scp.dicomweb.process import run_web_door  # noqa: PLC0415
    from edge.scp.fork_server import ForkServer  # noqa: PLC0415

    server = ForkServer(receiving.run_receiver, process.run_answering, run_web_door, receiving.run_hl7_receiver)
    from edge.daemon.lifecycle import run as run_gateway  # noqa: PLC0415  # all that the gateway is made of

    sys.exit(run_gateway(session.directory, server))
