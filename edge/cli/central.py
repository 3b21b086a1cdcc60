"""`edge central ...`: the central office's service and what it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import click

from edge.central import config as configuration
from edge.central.config import Config
from edge.cli.session import json_option
from edge.cli.tables import print_json, print_table
from edge.errors import EdgeError


class Office:
    """What the commands share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def config(self) -> Config:
        return configuration.load(self.directory)


@click.group(short_help="The central office: the picture of all sites.")
@click.option(
    "--config",
    "directory",
    envvar="EDGE_CENTRAL_CONFIG",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=configuration.INSTALLED,
    show_default=True,
    help="Directory of its configuration.",
)
@click.pass_context
def central(ctx: click.Context, directory: Path) -> None:
    """Hear the heartbeats of all sites, and answer questions about them."""
    ctx.obj = Office(directory)


@central.command()
@click.pass_obj
def run(office: Office) -> None:
    """Run the central office in the foreground, until SIGTERM or Ctrl-C.

    \b
    Example:  edge central --config /etc/edge-central/conf.d run
    """
    from edge.central import office as service  # noqa: PLC0415  # the web stack: no other command needs it

    sys.exit(service.run(office.directory))


@central.command()
@click.option("--sites", default=1000, show_default=True, help="How many.")
@click.option("--minutes", default=1.0, show_default=True, help="How long at their own pace, one a minute each.")
@click.option("--database", metavar="URL", help="Of the office that is started for it; a new SQLite file if omitted.")
@json_option
def simulate(sites: int, minutes: float, database: str | None, as_json: bool) -> None:
    """Measure a central office of its own with the heartbeats of sites that do not exist.

    First at their own pace, then as fast as it takes them. Nothing of a real office is touched.

    \b
    Example:  edge central simulate --sites 1000 --minutes 5
    """
    from edge.central import simulate as simulation  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="edge-central-") as made:
        directory, port = Path(made), _free_port()
        key = simulation.write_config(directory, sites, port, database)
        fleet, url = simulation.fleet(sites, key), f"http://127.0.0.1:{port}/heartbeat"
        with _own_office(directory, port) as pid:
            paced = simulation.measure(lambda: simulation.at_their_pace(url, fleet, minutes), pid)
            fast = simulation.measure(lambda: simulation.as_fast_as_it_goes(url, fleet), pid)
    told = {"paced": asdict(paced), "fast": asdict(fast)}
    if as_json:
        print_json(told)
    else:
        print_table(
            ["", *(name.replace("_", " ") for name in told["paced"])], [[k, *v.values()] for k, v in told.items()]
        )
    if paced.refused or fast.refused:
        raise SystemExit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _own_office(directory: Path, port: int) -> Iterator[int]:
    """An office as a process of its own; its process id."""
    office = subprocess.Popen(
        [sys.executable, "-m", "edge", "central", "--config", str(directory), "run"], stderr=subprocess.DEVNULL
    )
    try:
        _await_office(office, port)
        yield office.pid
    finally:
        office.terminate()
        office.wait(timeout=30)


def _await_office(office: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and office.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise EdgeError("the central office did not start")
