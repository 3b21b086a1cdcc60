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

from tests.support.nursery import COMMANDS, GATEWAYS
from tests.support.peers import Orthanc, StoreScp, free_port
from tests.support.postgres import Postgres
from tests.support.small_files import copy_catalogs

#: Collecting the tests takes three times as long where nothing that was compiled is kept (as container images like it).
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

#: What is collected stays: to look through it for garbage again and again takes a third of the time of a collection.
gc.disable()

#: The same examples in every run, and none is judged by its time. `make torture` has other ones each time.
settings.register_profile("edge", deadline=None, derandomize=True, database=None)
settings.load_profile("edge")


#: Whose start is no fork, Edge(..., forked=False), lays out as much as in a clinic; so do those of bench and torture.
GATEWAYS.small = COMMANDS.small = True


@pytest.fixture(scope="session", autouse=True)
def _small_catalogs() -> None:
    copy_catalogs()


#: The files that take the longest, each one to two minutes.
LONGEST = (
    *("poison", "forward", "transform", "confirm_poison", "main_job", "scrub", "receivers", "recover"),
    *("lists", "worklist", "header", "central_pages", "commitments"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files and those with slow tests come first, so that at the end no worker waits for one of them."""
    rank = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST) + (item.path not in slow)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


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
