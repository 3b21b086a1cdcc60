"""A fleet that does not exist: signed heartbeats of many sites, posted as real ones do, a connection each.

What comes out are the figures of docs/central.md: how many a minute, how long an answer takes, what it costs.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil

from edge.central import config as configuration
from edge.central.config import CentralConfig
from edge.central.fleet import standings
from edge.central.reports import QUESTIONS
from edge.central.simulated_site import TB, SimulatedSite, fleet
from edge.config.channels import HEARTBEAT_CHANNEL
from edge.errors import EdgeError, Transient
from edge.messaging.https import Endpoint, Upstream
from edge.store.central import history, open_store, outages
from edge.store.engine import EngineTransaction
from edge.store.outbox import Message

#: Posts under way at once when measuring how fast the centre is.
AT_ONCE = 32


class SimulationError(Transient):
    """The centre takes no heartbeat."""


def write_config(directory: Path, count: int, port: int, database: str | None = None) -> list[SimulatedSite]:
    """A configuration for the centre of such a fleet, and the fleet."""
    sites = fleet(count, os.urandom(32).hex())
    lines = ["[central]", 'host = "127.0.0.1"', f"port = {port}", 'data_dir = "data"']
    lines += [f'database = "{database}"'] if database else []
    for site in sites:
        secret = directory / f"{site.id}.key"
        secret.touch(mode=0o600)
        secret.write_bytes(site.key)
        titles = ", ".join(f'"{title}"' for title in site.titles)
        lines += [f'[site."{site.id}"]', f'key = "{site.id}.key"', f"equipment = [{titles}]"]
        lines += [f'provider = "Provider {int(site.id) % 25}"', f'region = "Region {int(site.id) % 8}"']
    (directory / "central.toml").write_text("\n".join(lines) + "\n")
    return sites


# -- posting -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Post:
    """How long an answer took, in seconds, and whether the centre has taken it."""

    seconds: float
    is_taken: bool


def deliver_heartbeat(url: str, site: SimulatedSite, at: float) -> Post:
    """One heartbeat, as a site posts it."""
    message = Message(0, HEARTBEAT_CHANNEL, "heartbeat", at, json.dumps(site.document(at)), 0)
    begun, is_taken = time.perf_counter(), True
    try:
        Upstream(Endpoint(url, ssl.create_default_context), site.id, lambda: site.key).deliver(message)
    except EdgeError:
        is_taken = False
    return Post(time.perf_counter() - begun, is_taken)


def at_their_pace(url: str, sites: Sequence[SimulatedSite], minutes: float) -> list[Post]:
    """Every site once a minute, each at its own second."""
    begun, step = time.monotonic(), 60.0 / len(sites)

    def wait_and_post(turn: int) -> Post:
        time.sleep(max(0.0, begun + turn * step - time.monotonic()))
        return deliver_heartbeat(url, sites[turn % len(sites)], time.time())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(wait_and_post, range(int(len(sites) * minutes))))


def as_fast_as_it_goes(url: str, sites: Sequence[SimulatedSite], rounds: int = 3) -> list[Post]:
    """Every site `rounds` times, as fast as answers come; the documents' times go on by minutes."""
    turns = [(site, time.time() - 60 * (rounds - turn)) for turn in range(rounds) for site in sites]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda turn: deliver_heartbeat(url, *turn), turns))


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run cost: `cpu_percent` of one core, `memory_bytes` at most."""

    heartbeats: int
    refused: int
    seconds: float
    per_minute: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_percent: float | None
    memory_bytes: int | None


def measure(run: Callable[[], list[Post]], pid: int | None) -> Figures:
    """Run it, and watch what process `pid` needs for it."""
    before, begun = cpu_seconds(pid), time.monotonic()
    posts = run()
    seconds = time.monotonic() - begun
    after = cpu_seconds(pid)
    if not any(each.is_taken for each in posts):
        raise SimulationError("the centre takes no heartbeat")
    cuts = quantiles([each.seconds * 1000 for each in posts], n=100)
    return Figures(
        heartbeats=len(posts),
        refused=sum(not each.is_taken for each in posts),
        seconds=round(seconds, 1),
        per_minute=round(len(posts) / seconds * 60),
        p50_ms=round(cuts[49], 1),
        p99_ms=round(cuts[98], 1),
        max_ms=round(max(each.seconds for each in posts) * 1000, 1),
        cpu_percent=None if before is None or after is None else round((after - before) / seconds * 100, 1),
        memory_bytes=peak_memory(pid),
    )


def cpu_seconds(pid: int | None) -> float | None:
    """What a process has used so far."""
    return None if pid is None else sum(psutil.Process(pid).cpu_times()[:2])


def peak_memory(pid: int | None) -> int | None:
    """The most that a process held (proc(5), VmHWM): psutil gives the present size alone."""
    if pid is None:
        return None
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


# -- a whole run -------------------------------------------------------------------------------------------------------


def run_simulation(count: int, minutes: float, months: int, database: str | None) -> dict[str, dict[str, Any]]:
    """A centre of its own, filled, asked and measured; the figures by what was done."""
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="edge-central-") as made:
        directory, port = Path(made), _free_port()
        sites = write_config(directory, count, port, database)
        url = f"http://127.0.0.1:{port}/heartbeat"
        config = configuration.load(directory)
        if months:
            figures["history"] = asyncio.run(fill(config, months))
        with _own_centre(directory, port) as pid:
            figures["paced"] = asdict(measure(lambda: at_their_pace(url, sites, minutes), pid))
            figures["fast"] = asdict(measure(lambda: as_fast_as_it_goes(url, sites), pid))
            figures["questions_seconds"] = asyncio.run(time_questions(config))
    return figures


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _own_centre(directory: Path, port: int) -> Iterator[int]:
    """A centre as a process of its own; its process id."""
    command = [sys.executable, "-m", "edge", "central", "--config", str(directory), "run"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _await_start(process, port)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await_start(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SimulationError("the centre did not start")


# -- history -----------------------------------------------------------------------------------------------------------

_DAYS_A_MONTH = 30.44


async def fill(config: CentralConfig, months: int) -> dict[str, Any]:
    """Hours and days as if the sites had reported for this number of months, and an outage each month at each."""
    begun, now = time.monotonic(), time.time()
    counts = {"history_hour": 0, "history_day": 0}

    def work(conn: EngineTransaction, site: str) -> None:
        for table in counts:
            found = list(_measurements(site, months, history.SPANS[table], now))
            history.add_rows(conn, table, found)
            counts[table] += len(found)
        outages.add_down(conn, _downtimes(site, months, now))

    async with open_store(config.database_url()) as store:
        for site in config.sites:
            await store.write(partial(work, site=site))
    size = store.path.stat().st_size if store.path else None
    return {**counts, "seconds": round(time.monotonic() - begun, 1), "bytes": size}


def _downtimes(site: str, months: int, now: float) -> Iterator[dict[str, Any]]:
    chance = random.Random(f"outages {site}")
    for month in range(months):
        begin = now - (month + chance.random()) * _DAYS_A_MONTH * 86400
        yield {"site": site, "begin": begin, "end": begin + chance.uniform(300, 7200)}


def _measurements(site: str, months: int, span: int, now: float) -> Iterator[dict[str, Any]]:
    """What a site's history would hold: a disk that fills by a little each day, and a daily rhythm."""
    chance = random.Random(site)
    total, growth = 4.0 * TB, chance.uniform(0, 3e9)
    begin = int(now - months * _DAYS_A_MONTH * 86400) // span * span
    for at in range(begin, int(now) // span * span, span):
        came = chance.randrange(60) * span // 3600
        yield {
            "site": site,
            "at": at,
            "heartbeats": span // 60,
            "used": 0.2 * total + growth * (at - begin) / 86400,
            "total": total,
            "backlog": came,
            "backlog_bytes": came * 500_000,
            "oldest": float(came),
            "received": came,
            "received_bytes": came * 500_000,
        }


async def time_questions(config: CentralConfig) -> dict[str, Any]:
    """How long each question takes, in seconds, and the history of one site by hours and by days."""
    now, site = time.time(), next(iter(config.sites))
    asked: dict[str, Callable[[EngineTransaction], object]] = {
        name: partial(question.ask, config=config, now=now) for name, question in QUESTIONS.items()
    }
    asked["fleet"] = lambda conn: standings(conn, config, now)
    for table in ("history_hour", "history_day"):
        asked[f"one_site_{table}"] = partial(history.list_measurements, table=table, site=site, begin=0.0)
    found = {}
    async with open_store(config.database_url()) as store:
        for name, ask in asked.items():
            begun = time.perf_counter()
            await store.read(ask)
            found[name] = round(time.perf_counter() - begun, 3)
    return found
