"""A fleet that does not exist: signed heartbeats of many sites, posted as real ones do, a connection each.

What comes out are the figures of docs/central.md: how many a minute, how long an answer takes, what it costs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from edge import __version__
from edge.central import config as configuration
from edge.central.config import Config
from edge.central.fleet import standings
from edge.central.intake import HISTORY
from edge.central.reports import QUESTIONS
from edge.central.store import Connection, Store, do_many, rows
from edge.errors import Transient
from edge.monitor import heartbeat
from edge.text import iso

KINDS = ("CT", "MR", "CR", "US", "DX", "MG", "PX")
TB = 10**12
#: Posts under way at once when measuring how fast the office is.
AT_ONCE = 32


class SimulationError(Transient):
    """The office does not answer."""


@dataclass(slots=True)
class Site:
    """One simulated site; `head` stands for its ledger's."""

    id: str
    key: bytes
    number: int = 0
    boot: str = "simulated"
    started: float = 0.0
    received: int = 0
    used: float = 0.4
    total: int = 4 * TB
    titles: tuple[str, ...] = ()
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def document(self, at: float) -> dict[str, Any]:
        """Its next heartbeat."""
        self.number += 1
        came = self.chance.randrange(400)
        self.received += came
        self.used = min(0.93, self.used + came * 500_000 / self.total)
        return {
            "schema": heartbeat.NAME,
            "site": {"id": self.id, "name": f"Simulated {self.id}"},
            "number": self.number,
            "at": iso(at),
            "boot": self.boot,
            "version": __version__,
            "every_seconds": 60,
            "status": self._status(at),
            "ledger": {"seq": self.received, "head": f"{self.received:064x}"},
            "notices": [],
        }

    def _status(self, at: float) -> dict[str, Any]:
        waiting = self.chance.randrange(300)
        link = {"state": "up", "pending": waiting, "deferred": 0, "held": 0, "sent": self.received, "confirmed": 0}
        return {
            "state": "running",
            "reasons": [],
            "uptime_seconds": at - self.started,
            "instances": {
                "received": self.received,
                "stored": self.received,
                "stored_bytes": self.received * 500_000,
                "evicted": 0,
            },
            "queue": {
                "pending": waiting,
                "active": 0,
                "deferred": 0,
                "held": 0,
                "bytes": waiting * 500_000,
                "oldest_seconds": float(waiting),
            },
            "destinations": {"archive": link, "teleread": link},
            "storage": {
                "used_fraction": round(self.used, 4),
                "free_bytes": int(self.total * (1 - self.used)),
                "total_bytes": self.total,
                "full_in_seconds": None,
            },
            "alerts": [],
            "modalities": [self._modality(title, at) for title in self.titles],
        }

    def _modality(self, title: str, at: float) -> dict[str, Any]:
        return {
            "ae_title": title,
            "address": "192.0.2.7",
            "manufacturer": "Simulated",
            "model": title.rstrip("0123456789"),
            "last_seen": iso(at),
            "admitted": True,
        }


def fleet(count: int, seed: str = "") -> list[Site]:
    """So many sites, the same ones each time; their keys are made of `seed`."""
    now = time.time()
    made = []
    for index in range(count):
        chance = random.Random(index)
        titles = tuple(f"{chance.choice(KINDS)}{n}" for n in range(1, chance.randrange(3, 12)))
        used = chance.uniform(0.2, 0.8)
        key = hashlib.sha256(f"{seed}:{index}".encode()).hexdigest().encode()
        made.append(Site(f"{index + 1:04d}", key, started=now - 86400, used=used, titles=titles, chance=chance))
    return made


def write_config(directory: Path, count: int, port: int, database: str | None = None) -> list[Site]:
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
    """How long an answer took, in seconds, and what it was (0: none came)."""

    seconds: float
    status: int


async def post(url: str, site: Site, at: float) -> Post:
    """One heartbeat on a connection of its own."""
    body = json.dumps(site.document(at), separators=(",", ":")).encode()
    begun = time.perf_counter()
    try:
        status = await asyncio.wait_for(_exchange(url, site, body), timeout=30)
    except (OSError, asyncio.TimeoutError, ValueError, IndexError):
        status = 0
    return Post(time.perf_counter() - begun, status)


async def _exchange(url: str, site: Site, body: bytes) -> int:
    parts = urlsplit(url)
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Edge-Site: {site.id}\r\nEdge-Signature: {heartbeat.sign(site.key, body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        answer = await reader.read()
    finally:
        writer.close()
    return int(answer.split(b" ", 2)[1])


async def at_their_pace(url: str, sites: Sequence[Site], minutes: float) -> list[Post]:
    """Every site once a minute, each at its own second."""
    posts: list[Awaitable[Post]] = []
    async for site in _in_turn(sites, minutes):
        posts.append(asyncio.ensure_future(post(url, site, time.time())))
    return list(await asyncio.gather(*posts))


async def _in_turn(sites: Sequence[Site], minutes: float) -> AsyncIterator[Site]:
    begun, step = time.monotonic(), 60.0 / len(sites)
    for turn in range(int(len(sites) * minutes)):
        await asyncio.sleep(max(0.0, begun + turn * step - time.monotonic()))
        yield sites[turn % len(sites)]


async def as_fast_as_it_goes(url: str, sites: Sequence[Site], rounds: int = 3) -> list[Post]:
    """Every site so many times, as fast as answers come; the documents' times go on by minutes."""
    turns = iter([(site, time.time() - 60 * (rounds - turn)) for turn in range(rounds) for site in sites])
    posts: list[Post] = []

    async def work() -> None:
        for site, at in turns:
            posts.append(await post(url, site, at))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return posts


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


def measure(run: Callable[[], Awaitable[list[Post]]], pid: int | None) -> Figures:
    """Run it, and watch what process `pid` needs for it."""
    before, begun = cpu_seconds(pid), time.monotonic()
    posts = asyncio.run(_all(run))
    seconds = time.monotonic() - begun
    after = cpu_seconds(pid)
    if not any(each.status for each in posts):
        raise SimulationError("the central office does not answer")
    cuts = quantiles([each.seconds * 1000 for each in posts], n=100)
    return Figures(
        heartbeats=len(posts),
        refused=sum(each.status != 200 for each in posts),
        seconds=round(seconds, 1),
        per_minute=round(len(posts) / seconds * 60),
        p50_ms=round(cuts[49], 1),
        p99_ms=round(cuts[98], 1),
        max_ms=round(max(each.seconds for each in posts) * 1000, 1),
        cpu_percent=None if before is None or after is None else round((after - before) / seconds * 100, 1),
        memory_bytes=peak_memory(pid),
    )


async def _all(run: Callable[[], Awaitable[list[Post]]]) -> list[Post]:
    return await run()


def cpu_seconds(pid: int | None) -> float | None:
    """What a process has used so far (proc(5), utime and stime)."""
    if pid is None:
        return None
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int | None) -> int | None:
    """The most that a process held (proc(5), VmHWM)."""
    if pid is None:
        return None
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


# -- a whole run -------------------------------------------------------------------------------------------------------


def run(count: int, minutes: float, months: int, database: str | None) -> dict[str, dict[str, Any]]:
    """An office of its own, filled, asked and measured; the figures by what was done."""
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="edge-central-") as made:
        directory, port = Path(made), _free_port()
        sites = write_config(directory, count, port, database)
        url = f"http://127.0.0.1:{port}/heartbeat"
        config = configuration.load(directory)
        if months:
            figures["history"] = fill(config, months)
        with _own_office(directory, port) as pid:
            figures["paced"] = asdict(measure(lambda: at_their_pace(url, sites, minutes), pid))
            figures["fast"] = asdict(measure(lambda: as_fast_as_it_goes(url, sites), pid))
            figures["questions_seconds"] = time_questions(config)
    return figures


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _own_office(directory: Path, port: int) -> Iterator[int]:
    """An office as a process of its own; its process id."""
    command = [sys.executable, "-m", "edge", "central", "--config", str(directory), "run"]
    office = subprocess.Popen(command, stderr=subprocess.DEVNULL)
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
    raise SimulationError("the central office did not start")


# -- history -----------------------------------------------------------------------------------------------------------

_FILL = """
INSERT INTO {table} (site, at, beats, used, total, backlog, backlog_bytes, oldest, received, received_bytes)
VALUES (:site, :at, :beats, :used, :total, :backlog, :backlog_bytes, :oldest, :received, :received_bytes)
"""
_DAYS_A_MONTH = 30.44


def fill(config: Config, months: int) -> dict[str, Any]:
    """Hours and days as if the sites had reported for so many months, and an outage each month at each."""
    begun, now = time.monotonic(), time.time()
    counts = {"history_hour": 0, "history_day": 0}
    store = Store(config.database_url())
    try:
        for site in config.sites:
            with store.writing() as conn:
                for table in counts:
                    past = list(_past(site, months, HISTORY[table], now))
                    do_many(conn, _FILL.format(table=table), past)
                    counts[table] += len(past)
                do_many(conn, _FILL_OUTAGE, list(_past_outages(site, months, now)))
    finally:
        store.close()
    return {**counts, "seconds": round(time.monotonic() - begun, 1), "bytes": _file_size(store)}


_FILL_OUTAGE = """
INSERT INTO outage (site, silent_from, returned_at, cause, down_from, down_to, why)
VALUES (:site, :begin, :end, 'down', :begin, :end, '')
"""


def _past_outages(site: str, months: int, now: float) -> Iterator[dict[str, Any]]:
    chance = random.Random(f"outages {site}")
    for month in range(months):
        begin = now - (month + chance.random()) * _DAYS_A_MONTH * 86400
        yield {"site": site, "begin": begin, "end": begin + chance.uniform(300, 7200)}


def _past(site: str, months: int, span: int, now: float) -> Iterator[dict[str, Any]]:
    """What a site's history would hold: a disk that fills by a little each day, and a daily rhythm."""
    chance = random.Random(site)
    total, growth = 4.0 * TB, chance.uniform(0, 3e9)
    begin = int(now - months * _DAYS_A_MONTH * 86400) // span * span
    for at in range(begin, int(now) // span * span, span):
        came = chance.randrange(60) * span // 3600
        yield {
            "site": site,
            "at": at,
            "beats": span // 60,
            "used": 0.2 * total + growth * (at - begin) / 86400,
            "total": total,
            "backlog": came,
            "backlog_bytes": came * 500_000,
            "oldest": float(came),
            "received": came,
            "received_bytes": came * 500_000,
        }


def _file_size(store: Store) -> int | None:
    return os.stat(store.url.database).st_size if store.is_sqlite and store.url.database else None


def time_questions(config: Config) -> dict[str, Any]:
    """How long each question takes, in seconds, and the history of one site by hours and by days."""
    store, now = Store(config.database_url()), time.time()
    asked: dict[str, Callable[[Connection], object]] = {
        name: partial(lambda conn, ask: ask(conn, config, now), ask=question.ask)
        for name, question in QUESTIONS.items()
    }
    asked["fleet"] = lambda conn: standings(conn, config, now)
    for table in ("history_hour", "history_day"):
        sql = f"SELECT * FROM {table} WHERE site = :site ORDER BY at"
        asked[f"one_site_{table}"] = partial(lambda conn, sql: rows(conn, sql, site=next(iter(config.sites))), sql=sql)
    try:
        with store.reading() as conn:
            return {name: round(_seconds(partial(ask, conn)), 3) for name, ask in asked.items()}
    finally:
        store.close()


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
