"""A central office under test: its store on either database, a clock that is told the time, and sites that report."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import httpx
import trustme
from sqlalchemy import create_engine

from edge.central import config, intake, watch
from edge.central.config import CentralConfig
from edge.central.heartbeat import parse
from edge.central.sequence import SequenceResult
from edge.store.central import open_store
from edge.store.engine import EngineStore, EngineTransaction, Row, prepare, rows
from edge.text import iso
from tests.support.nursery import COMMANDS, Child
from tests.support.peers import EDGE, ENVIRONMENT, PATIENCE, REPOSITORY, Peer, free_port

T = TypeVar("T")
#: A Monday, 09:00 UTC.
MORNING = 1_767_603_600.0


def write_config(directory: Path, sites: str, central: str = "") -> CentralConfig:
    """A configuration, and the keys that it names."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in re.findall(r'key = "([^"/]+)\.key"', sites):
        write_secret(directory / f"{name}.key", key_of(name))
    (directory / "central.toml").write_text(f'[central]\nhost = "127.0.0.1"\ndata_dir = "data"\n{central}\n{sites}\n')
    return config.load(directory)


def write_secret(path: Path, content: bytes) -> Path:
    """A file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_bytes(content + b"\n")
    return path


def key_of(site: str) -> bytes:
    """What NAME.key holds."""
    return b"secret of the site " + site.encode()


def some_sites(count: int, provider: str = "") -> str:
    """TOML of sites "1" to `count`."""
    behind = f'provider = "{provider}"\n' if provider else ""
    return "\n".join(f'[site."{n}"]\nkey = "{n}.key"\n{behind}' for n in range(1, count + 1))


def status(**told: Any) -> dict[str, Any]:
    """The status of a site that is well."""
    return {
        "state": "running",
        "uptime_seconds": 3600.0,
        "instances": {"received": 100, "stored": 100, "stored_bytes": 50_000_000},
        "queue": {"pending": 3, "active": 0, "deferred": 0, "held": 0, "bytes": 900, "oldest_seconds": 2.0},
        "destinations": {},
        "storage": {"used_fraction": 0.5, "free_bytes": 10**12, "total_bytes": 2 * 10**12, "full_in_seconds": None},
        "alerts": [],
        **told,
    }


def document(site: str, number: int, at: float, **told: Any) -> dict[str, Any]:
    """A heartbeat."""
    made = {
        "schema": "edge-heartbeat/1",
        "site": {"id": site, "name": f"Site {site}"},
        "number": number,
        "at": iso(at),
        "boot": "first",
        "version": "1.0",
        "every_seconds": 60,
        "status": status(),
        "ledger": {"seq": number, "head": f"{number:064x}"},
        "notices": [],
    }
    return {**made, **told}


def encoded(made: dict[str, Any]) -> bytes:
    return json.dumps(made).encode()


class OpenDatabase:
    """The centre's database without a loop: the verbs of the store on a synchronous engine of the same two drivers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._make()
        self._engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        prepare(self._engine)

    def _make(self) -> None:
        """Bring its tables up to date. A new SQLite file is a copy of the first one: the tests make hundreds."""
        scheme, _, name = self.url.partition(":///")
        path = Path(name)
        if scheme != "sqlite" or path.exists():
            self.on_loop(_nothing)
        elif _MADE:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_MADE[0])
        else:
            self.on_loop(_nothing)
            _MADE.append(path.read_bytes())

    @contextmanager
    def reading(self) -> Iterator[EngineTransaction]:
        with self._engine.connect() as conn:
            yield EngineTransaction(conn)

    @contextmanager
    def writing(self) -> Iterator[EngineTransaction]:
        with self._engine.execution_options(writes=True).begin() as conn:
            yield EngineTransaction(conn)

    def read(self, work: Callable[[EngineTransaction], T]) -> T:
        with self.reading() as conn:
            return work(conn)

    def write(self, work: Callable[[EngineTransaction], T]) -> T:
        with self.writing() as conn:
            return work(conn)

    def on_loop(self, work: Callable[[EngineStore], Awaitable[T]]) -> T:
        """What `work` finds in the store itself."""

        async def run() -> T:
            async with open_store(self.url) as store:
                return await work(store)

        with ThreadPoolExecutor(1) as pool:  # the thread of a test may have a loop of its own: playwright's
            return pool.submit(asyncio.run, run()).result()

    def close(self) -> None:
        self._engine.dispose()


#: An SQLite database with all its tables, and nothing in them.
_MADE: list[bytes] = []


async def _nothing(_store: EngineStore) -> None:
    """To open it brings its tables up to date."""


class Office:
    """The office's store and what happens to it. Time is what a test says."""

    def __init__(self, config: CentralConfig, store: OpenDatabase) -> None:
        self.config, self.store, self.started = config, store, 0.0

    def hear(self, site: str, number: int, at: float, *, now: float | None = None, **told: Any) -> SequenceResult:
        """A heartbeat comes, at its own time unless `now` says otherwise."""
        beat = parse(encoded(document(site, number, at, **told)))
        with self.store.writing() as conn:
            return intake.record_heartbeat(conn, beat, at if now is None else now)

    def look(self, now: float) -> None:
        """The dead-man switch."""
        with self.store.writing() as conn:
            watch.look_for_silence(conn, self.config, self.started, now)

    def rows(self, sql: str, **given: object) -> Sequence[Row]:
        with self.store.reading() as conn:
            return rows(conn, sql, **given)

    def incidents(self, *, open_only: bool = False) -> list[Row]:
        """All that are not part of another, in order."""
        found = self.rows("SELECT * FROM incident WHERE merged_into IS NULL ORDER BY id")
        return [each for each in found if not open_only or each["closed_at"] is None]

    def notes(self, incident: int) -> list[str]:
        found = self.rows("SELECT text FROM incident_note WHERE incident = :id ORDER BY id", id=incident)
        return [each["text"] for each in found]


class CentralOffice(Peer):
    """The service as a process, with TLS, on SQLite in its directory."""

    name = "central"

    def __init__(self, directory: Path, sites: str, more: str = "") -> None:
        super().__init__(directory)
        self.port = free_port()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(directory / "central.pem"))
        (directory / "central.pem").chmod(0o600)
        self.conf = directory / "conf.d"
        told = f'port = {self.port}\ncertificate = "../central.pem"\nkey = "../central.pem"\n'
        self.config = write_config(self.conf, sites, told + more)
        self.context = ssl.create_default_context(cafile=str(directory / "ca.pem"))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [*EDGE, "central", "--config", str(self.conf), "run"]

    def spawn(self, log: BinaryIO) -> Child:
        return COMMANDS.spawn(self.command()[len(EDGE) :], self.environment(), self.directory, log)

    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)}

    def is_ready(self) -> bool:
        with httpx.Client(verify=self.context) as client:
            try:
                return client.get(f"{self.url}/healthz").status_code == 200
            except httpx.TransportError:
                return False

    def ask(self, sql: str, **given: object) -> Sequence[Row]:
        """What its database says, without the time that a command takes to start."""
        with closing(OpenDatabase(self.config.database_url())) as store, store.reading() as conn:
            return rows(conn, sql, **given)

    def words(self, *words: str) -> str:
        """What `edge central WORDS` says to people."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cli(self, *words: str) -> Any:
        """What `edge central WORDS --json` says."""
        done = self.run(*words, "--json")
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`edge central WORDS`, whatever its exit code."""
        return COMMANDS.run(["central", "--config", str(self.conf), *words], self.environment(), PATIENCE)


__all__ = [
    "MORNING",
    "CentralOffice",
    "Office",
    "OpenDatabase",
    "document",
    "encoded",
    "key_of",
    "some_sites",
    "status",
    "write_config",
    "write_secret",
]
