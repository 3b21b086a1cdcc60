"""What was answered and is not in the catalog: the commands that say what is here know it."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydicom import dcmread

from edge.cli import cli
from edge.intake.policy import Policy
from edge.spool import Spool
from edge.storage.rebuild import recover
from edge.store.database import Store
from edge.store.ledger_copy import Journal
from tests.store.test_large_objects import accept, cannot_now, flip, in_journal
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import ct_files
from tests.support.peers import Edge, storescu, wait_until
from tests.system.test_receivers import ROUTE


class Left:
    """A data directory as a killed gateway leaves it: one object applied; a short and a long one answered only."""

    def __init__(self, tmp_path: Path) -> None:
        text = CONFIG.replace('"data"', f'"{tmp_path}/data"')
        self.edge, self.directory = Receiving(tmp_path, text), tmp_path / "conf.d"
        (first,) = ct_files(tmp_path / "first", 1, 10_000)
        self.tail = [*ct_files(tmp_path / "short", 1, 10_000), *ct_files(tmp_path / "long", 1, 3_000_000)]
        with self.edge as edge:
            assert accept(edge, first) == 0
            edge.settle()
            with edge.db.reading() as conn:
                Journal(edge.data_dir).write(conn)
            with pytest.MonkeyPatch.context() as patch:
                for name in ("put", "take"):
                    patch.setattr(Spool, name, cannot_now)
                for path in self.tail:
                    assert accept(edge, path) == 0
                wait_until(lambda: edge.journal_door.cause, 10, "it could not be applied")
                edge.crash()

    def command(self, *args: str) -> Result:
        return CliRunner().invoke(cli, ["--config", str(self.directory), *args])

    def study(self, at: int) -> str:
        return str(dcmread(self.tail[at], stop_before_pixels=True).StudyInstanceUID)

    def rows(self, sql: str) -> list[Any]:
        with closing(connect(self.edge.data_dir / "catalog.db")) as conn:
            return conn.execute(sql).fetchall()


@pytest.fixture
def killed(tmp_path: Path) -> Left:
    return Left(tmp_path)


@pytest.mark.parametrize("at", [0, 1], ids=["short", "long"])
@pytest.mark.parametrize("command", [("prove",), ("studies", "show")], ids=lambda each: each[0])
def test_a_study_that_the_journal_alone_has_is_not_called_unknown(
    killed: Left, command: tuple[str, ...], at: int
) -> None:
    done = killed.command(*command, killed.study(at))
    assert done.exit_code == 1
    assert "recorded in the journal; the next start stores them" in done.output
    assert "has been received" not in done.output
    assert "no study 1.2.3 has been received" in killed.command(*command, "1.2.3").output


def test_a_list_says_that_there_is_more(killed: Left) -> None:
    assert "2 more images are recorded in the journal" in killed.command("studies", "list").stderr


def test_the_status_counts_what_the_journal_alone_has(killed: Left) -> None:
    ((waiting,),) = killed.rows("SELECT count(*) FROM delivery WHERE state = 'pending'")
    done = killed.command("status")
    assert f"the {waiting + 2} images still to be sent are safe on disk" in done.stdout.splitlines()[0]
    assert json.loads(killed.command("status", "--json").stdout)["recorded"] == 2


@pytest.mark.parametrize("is_empty", [False, True], ids=["gone", "made anew by a start"])
def test_a_lost_catalog_is_not_one_that_has_sent_everything(killed: Left, is_empty: bool) -> None:
    for path in killed.edge.data_dir.glob("catalog.db*"):
        path.unlink()
    if is_empty:
        Store(killed.edge.data_dir / "catalog.db").close()
    first = killed.command("status").stdout.splitlines()[0]
    assert "every accepted image has been sent" not in first
    assert "its catalog is damaged (it has lost rows 1 to " in first
    assert "type `edge recover`" in first
    assert "this is not all" in killed.command("queue", "list").stderr


def test_verify_reads_the_tail_and_names_what_is_damaged(killed: Left) -> None:
    assert killed.command("verify", "--json").exit_code == 0
    (file,) = in_journal(killed.edge, ".part")
    flip(file, 2_000_000)
    done = killed.command("verify", "--json")
    (text,) = json.loads(done.stdout)["journal"]
    assert (done.exit_code, text.startswith("record ")) == (1, True)
    killed.edge.restart()  # which puts it aside
    killed.edge.settle()
    killed.edge.crash()
    done = killed.command("verify")
    assert done.exit_code == 1
    assert done.output.count(".damaged was damaged and is kept") == 2


@pytest.mark.parametrize("catalog", [True, False], ids=["damaged", "gone"])
def test_a_rebuilt_catalog_enters_nothing_twice_and_loses_nothing_of_the_tail(killed: Left, catalog: bool) -> None:
    edge = killed.edge
    if not catalog:
        for path in edge.data_dir.glob("catalog.db*"):
            path.unlink()
    recover(edge.data_dir, Policy.from_config(edge.config), "anna")
    edge.restart()
    assert edge.replayed == 2
    edge.settle()
    assert edge.rows("SELECT state FROM instance") == [("stored",)] * 3
    assert len(edge.files()) == 3
    edge.crash()


def test_a_running_gateway_answers_with_what_came_before(tmp_path: Path) -> None:
    with ExitStack() as running:
        edge = running.enter_context(Edge(tmp_path / "edge", ROUTE))
        for number in range(5):
            (path,) = ct_files(tmp_path / f"{number}", 1, 200_000)
            storescu([path], edge.port)
            study = str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)
            assert f'"study_uid": "{study}"' in edge.cli("studies", "show", study, "--json").stdout


def test_settling_is_bounded_also_while_objects_come(tmp_path: Path) -> None:
    with Receiving(tmp_path) as edge:
        stop, files = threading.Event(), ct_files(tmp_path / "ct", 200, 50_000)

        def send() -> None:
            while not stop.is_set():
                accept(edge, files[0])

        thread = threading.Thread(target=send)
        thread.start()
        try:
            assert all(edge.journal.settle(2.0) for _ in range(20))
        finally:
            stop.set()
            thread.join()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Spool, "put", cannot_now)
            assert accept(edge, files[1]) == 0
            assert not edge.journal.settle(0.1)
