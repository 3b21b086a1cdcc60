"""Fixtures that every test may use; the peers themselves are in tests/peers.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.peers import Orthanc, StoreScp, free_port
from tests.postgres import Postgres


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
    """The URL of an empty database, as SQLAlchemy takes it: a test that asks for it runs on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'central.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.empty().replace("postgresql://", "postgresql+psycopg://")
