"""Small things that mislead: odd names, an upgrade before its first start, what is so already, readers left over."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.cli import cli
from edge.errors import CatalogError
from edge.monitor.config_warnings import warnings
from edge.network import sockets
from edge.store import database, sqlite_file
from edge.store.database import Store
from edge.store.salvage import Salvage
from tests.support.filled import Filled
from tests.support.gateway import CONFIG, configuration
from tests.support.objects import ct_files
from tests.support.peers import Edge, free_port, storescu

ROUTE = '[destination.archive]\nae_title = "NOBODY"\nhost = "127.0.0.1"\nport = 1\n[route.all]\nto = ["archive"]\n'


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as made:
        yield made


def edge(filled: Filled, *args: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [*args, "--config", str(filled.directory)])
    return done.exit_code, " ".join(done.output.split())


# -- names ------------------------------------------------------------------------------------------------------------


def test_any_name_of_data_dir_is_used_as_it_is(tmp_path: Path, running: ExitStack) -> None:
    name = "x?mode=memory#1 100% a%20b? Röntgen [1]&c;d'e"
    gateway = running.enter_context(Edge(tmp_path / "edge", ROUTE, data_dir=tmp_path / name))
    storescu(ct_files(tmp_path / "ct", 1, 20_000), gateway.port)
    assert gateway.api_status()["instances"]["received"] == 1
    assert "1 file" in gateway.cli("verify").stdout
    gateway.stop()
    assert gateway.status()["instances"]["received"] == 1
    assert "1 file" in gateway.cli("verify").stdout
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "ct", tmp_path / "edge", tmp_path / name])
    salvage = Salvage(tmp_path / name / "catalog.db")
    assert "instance" in salvage.tables()
    salvage.close()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["worklist", "list"], 0),
        (["queries", "list"], 0),
        (["alerts", "ack", "1", "--note", "x"], 1),
        (["drill", "--done", "x"], 1),
        (["notify", "retry", "webhook.chat"], 1),
        (["notify", "tell", "--kind", "equipment", "a second CT"], 1),
        (["instances", "discard", "1", "--reason", "x"], 1),
    ],
)
def test_a_command_before_the_first_start_makes_no_catalog(tmp_path: Path, words: list[str], code: int) -> None:
    """It is often root who types it, and the gateway could not write what root has made."""
    config = configuration(tmp_path, CONFIG)
    config.site.data_dir.mkdir(exist_ok=True)
    done = CliRunner().invoke(cli, [*words, "--config", str(tmp_path / "conf.d")])
    assert (done.exit_code, "has never run" in done.output) == (code, True), done.output
    assert list(config.site.data_dir.iterdir()) == []


@pytest.mark.parametrize("key", ["listen", "console"])
def test_a_link_local_address_without_its_interface_is_remarked(tmp_path: Path, key: str) -> None:
    text = CONFIG.replace("[listen]\n", '[listen]\nhost = "fe80::1"\n') if key == "listen" else CONFIG
    config = configuration(tmp_path, text + ('[console]\nhost = "fe80::1"\n' if key == "console" else ""))
    assert any(f"{key}.host: a link-local address needs its interface" in each for each in warnings(config))


def test_a_watched_folder_that_nobody_can_use_is_remarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = tmp_path / "sensor"
    config = configuration(tmp_path, CONFIG + f'[drop.sensor]\npath = "{sensor}"\n')

    def found() -> list[str]:
        return [each.partition(": ")[2] for each in warnings(config) if "drop.sensor.path" in each]

    assert f"there is no folder {sensor}: nothing is imported from it" in found()[0]
    sensor.mkdir()
    assert found() == []
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read and write everything
    assert "cannot be read and written by this account" in found()[0]


def test_a_link_local_address_keeps_its_interface() -> None:
    _, address = sockets.listening_address("fe80::1%lo", 104)
    assert (address[0].partition("%")[0], address[3]) == ("fe80::1", 1)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("fe80::1", "a link-local address needs its interface"),
        ("fe80::1%nosuch", "of an interface of this machine"),
        ("192.0.2.77", "no interface of this machine has it"),
    ],
)
def test_an_address_that_cannot_be_bound_is_explained(tmp_path: Path, host: str, why: str) -> None:
    gateway = Edge(tmp_path / "edge", ROUTE)
    base = gateway.config_dir / "00-base.toml"
    base.write_text(
        base.read_text().replace('[listen]\nae_title = "EDGE"\nhost = "127.0.0.1"', f'[listen]\nhost = "{host}"')
    )
    done = gateway.cli("run")
    assert done.returncode == 1
    assert why in done.stderr
    assert "ss -ltnp" not in done.stderr


def test_every_port_in_use_is_named(tmp_path: Path) -> None:
    hl7, web = free_port(), free_port()
    ports = f'[hl7]\nhost = "127.0.0.1"\nport = {hl7}\n[dicomweb]\nhost = "127.0.0.1"\nport = {web}\n'
    gateway = Edge(tmp_path / "edge", ROUTE + ports)
    with ExitStack() as others:
        for port in (gateway.port, hl7, gateway.console_port):
            others.enter_context(sockets.listen_on("127.0.0.1", port))
        done = gateway.cli("run")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["console", "listen", "hl7"]
    for line, port in zip(lines, (gateway.console_port, gateway.port, hl7), strict=True):
        assert str(port) in line
        assert line.endswith("; `sudo ss -ltnp` names the program that uses it")


# -- an upgrade -------------------------------------------------------------------------------------------------------


def age(path: Path, version: int) -> None:
    """Make the catalog say that an older edge wrote it."""
    with sqlite3.connect(path) as conn:
        conn.execute(f"PRAGMA user_version = {version}")
    conn.close()


@pytest.mark.parametrize(
    "command",
    [("status",), ("queue", "list"), ("studies", "list"), ("verify",), ("ledger", "verify"), ("alerts", "list")],
)
def test_between_an_upgrade_and_the_first_start_the_command_says_so(filled: Filled, command: tuple[str, ...]) -> None:
    filled.db.close()
    age(filled.data_dir / "catalog.db", 2)
    code, said = edge(filled, *command)
    assert code == 1
    assert "has not been started since the upgrade" in said
    assert "no such column" not in said


def test_edge_check_works_before_the_first_start(filled: Filled) -> None:
    filled.db.close()
    age(filled.data_dir / "catalog.db", 2)
    code, said = edge(filled, "check")
    assert code == 0
    assert "has not been started since the upgrade" in said


def test_a_catalog_of_a_newer_edge_is_not_read(filled: Filled) -> None:
    filled.db.close()
    age(filled.data_dir / "catalog.db", 9999)
    code, said = edge(filled, "status")
    assert (code, "written by a newer edge" in said) == (1, True)


def test_an_upgrade_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalog.db"
    Store(path).close()
    newest = max(sqlite_file.migrations())
    more = {newest + 1: "CREATE TABLE one (a);", newest + 2: "CREATE TABLE two (a); SELECT nothing;"}
    monkeypatch.setattr(sqlite_file, "migrations", lambda: more)
    with pytest.raises(CatalogError):
        Store(path)
    with sqlite3.connect(path) as conn:
        assert conn.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('one', 'two')").fetchone()[0] == 0
        assert conn.execute("PRAGMA user_version").fetchone()[0] == newest
    conn.close()


# -- decisions --------------------------------------------------------------------------------------------------------


def test_what_is_stat_already_is_said_to_be(filled: Filled) -> None:
    filled.receive(2)
    promote = ("queue", "promote", "--all", "--to", "stat", "--reason", "the ward waits")
    assert "2 deliveries made stat." in edge(filled, *promote)[1]
    said = edge(filled, *promote)[1]
    assert "2 left unchanged: 2 are stat already." in said
    filled.settle("archive", 1)
    said = edge(filled, "queue", "promote", "1", "2", "--to", "stat", "--reason", "x")[1]
    assert "2 left unchanged: 1 is stat already; only waiting deliveries can be changed" in said


# -- readers ----------------------------------------------------------------------------------------------------------


def test_readers_that_nobody_needs_are_closed(tmp_path: Path) -> None:
    now = [0.0]
    db = Store(tmp_path / "catalog.db", monotonic=lambda: now[0])
    with ExitStack() as many:
        for _ in range(50):
            many.enter_context(db.reading())
    assert len(db._readers) == 50
    db.close_idle_readers()
    assert len(db._readers) == 50
    now[0] += database.CONNECTION_IDLE_SECONDS / 2
    with db.reading() as conn:
        conn.execute("SELECT 1").fetchone()
    now[0] += database.CONNECTION_IDLE_SECONDS / 2
    db.close_idle_readers()
    assert len(db._readers) == database.LEAST_READERS
    with db.reading() as conn:
        assert conn.execute("SELECT count(*) FROM gateway").fetchone()[0] == 0
    db.close()
