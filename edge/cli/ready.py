"""`edge ready`: for Pacemaker, keepalived and load balancers."""

from __future__ import annotations

import click

from edge.cli.session import CommandSession
from edge.cli.tables import fail_unless, say
from edge.daemon.control import DaemonDown
from edge.errors import EdgeError


@click.command(short_help="Check whether the gateway accepts images.")
@click.pass_obj
def ready(session: CommandSession) -> None:
    """Check whether the gateway accepts images now. Exit 0 if it does, 1 with the reason if it does not.

    \b
    Example:  edge ready
    """
    try:
        found = session.ask("ready")
    except DaemonDown:
        found = {"ready": False, "reason": f"no gateway runs on {session.data_dir}"}
    except EdgeError as error:
        found = {"ready": False, "reason": str(error)}
    say("accepting" if found["ready"] else found["reason"] or "not accepting")
    fail_unless(bool(found["ready"]))
