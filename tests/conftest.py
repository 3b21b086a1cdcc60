"""Fixtures that every test may use; the peers themselves are in tests/support/peers.py."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from edge.store import sqlite_file
from tests.support.peers import Orthanc, StoreScp, free_port
from tests.support.postgres import Postgres

#: Collecting the tests takes three times as long where nothing that was compiled is kept (as container images like it).
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

#: What is collected stays: to look through it for garbage again and again takes a third of the time of a collection.
gc.disable()

#: The same examples in every run, and none is judged by its time. `make torture` has other ones each time.
settings.register_profile("edge", deadline=None, derandomize=True, database=None)
settings.load_profile("edge")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests come first, so that at the end no worker waits for one of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _small_catalogs() -> Iterator[None]:
    """A new catalog is a copy of the first, and 1 MiB of its log is laid out, not 64: the tests make thousands.

    Those of a gateway that is a process of its own are as they are in a clinic.
    """
    really, made = sqlite_file.make, list[bytes]()

    def make(path: Path) -> None:
        if made:
            path.write_bytes(made[0])
        else:
            really(path)
            made.append(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_file, "WAL_RESTART_PAGES", (1 << 20) // sqlite_file.PAGE_BYTES)
        patch.setattr("edge.store.database.make", make)
        yield


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """`running.enter_context(StoreScp(...))`: all are stopped when the test ends, the last one first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def archive(tmp_path: Path, running: ExitStack) -> StoreScp:
    """A DCMTK storescp that runs."""
    return running.enter_context(StoreScp(tmp_path / "archive"))


@pytest.fixture
def edge_port() -> int:
    """Where the gateway of this test is to listen: peers that call it back must know before it starts."""
    return free_port()


@pytest.fixture
def orthanc(tmp_path: Path, running: ExitStack, edge_port: int) -> Orthanc:
    """An Orthanc that runs, and sends its storage commitment reports to `edge_port`."""
    return running.enter_context(Orthanc(tmp_path / "orthanc", edge_port))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run."""
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: a test that asks for it runs on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'central.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.empty()
