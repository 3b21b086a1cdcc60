"""After an upgrade the headers of what is here already are read once: bounded, resumable, visible."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from edge.storage.backfill import BACKFILL_BATCH, Backfill
from edge.store.database import connect, migrate
from tests.store.test_misfiled import ALICE, BOB, CARL, Clinic, facts_in
from tests.support.filled import Filled
from tests.support.objects import new_uid
from tests.support.peers import wait_until

#: What a catalog of the release before had, as far as it is needed here.
BEFORE = "0009"
TABLES = ("kind", "study", "instance", "delivery", "ledger", "gateway")


def older(path: Path) -> sqlite3.Connection:
    """An empty catalog from before the patients' facts were kept."""
    conn = connect(path)
    folder = resources.files("edge.store") / "migrations"
    for name in sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql")):
        if name[:4] <= BEFORE:
            conn.executescript((folder / name).read_text())
            conn.execute(f"PRAGMA user_version = {int(name[:4])}")
    return conn


def age(clinic: Clinic) -> None:
    """Let a catalog be one from before the patients' facts were kept, and upgrade it."""
    clinic.db.close()
    path = clinic.data_dir / "catalog.db"
    filled = path.rename(clinic.data_dir / "filled.db")
    with closing(older(path)) as conn:
        conn.execute("ATTACH ? AS filled", (str(filled),))
        for table in TABLES:
            columns = {row[1] for row in conn.execute(f"PRAGMA table_info({table})")} - {"open_deliveries"}
            names = ", ".join(sorted(columns))
            conn.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM filled.{table}")
        conn.execute("UPDATE delivery SET state = 'pending', reason_code = '' WHERE reason_code = 'mismatch'")
    again = Filled(clinic.tmp_path, (clinic.directory / "site.toml").read_text())
    clinic.db, clinic.spool, clinic.intake = again.db, again.spool, again.intake


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    with Clinic(tmp_path) as made:
        yield made


def run(clinic: Clinic) -> int:
    backfill, steps = Backfill(clinic.db, clinic.intake, clock=lambda: 7.0), 0
    while backfill.step():
        steps += 1
    return steps


def progress(clinic: Clinic) -> Any:
    return clinic.command("status", code=1)["backfill"]


def test_what_was_here_is_filled_in_and_a_mismatch_is_treated_as_if_it_came_now(clinic: Clinic) -> None:
    study = new_uid()
    for patient in (ALICE, BOB, ALICE):
        clinic.send(study, patient)
    clinic.send("", CARL)
    clinic.settle("archive", 1)
    before = facts_in(clinic.data_dir)
    age(clinic)
    assert facts_in(clinic.data_dir) == []
    assert (progress(clinic)["read"], progress(clinic)["of"]) == (0, 4)
    assert "0 of 4 read" in clinic.text("status")
    run(clinic)
    assert facts_in(clinic.data_dir) == before
    assert clinic.states()[:3] == [("confirmed", ""), ("held", "mismatch"), ("pending", "")]
    assert clinic.alert().subject == "held"
    assert progress(clinic) == {"read": 4, "of": 4, "unreadable": 0, "finished_at": "1970-01-01T00:00:07Z"}
    assert "read after the upgrade" not in clinic.text("status")
    assert [each["patient_id"] for each in clinic.command("studies", "show", study)["patients"]] == ["PATA", "PATB"]


def test_what_has_gone_already_is_an_alarm(clinic: Clinic) -> None:
    study = new_uid()
    for patient in (ALICE, BOB):
        clinic.send(study, patient)
    age(clinic)
    clinic.settle("archive", 2)
    run(clinic)
    assert [state for state, _ in clinic.states()] == ["confirmed", "confirmed"]
    assert clinic.alert().subject == "not held"


def test_an_image_that_comes_before_its_study_is_filled_in_is_judged_by_the_studys_row(clinic: Clinic) -> None:
    study = new_uid()
    clinic.send(study, ALICE)
    age(clinic)
    clinic.send(study, BOB)
    clinic.send(study, ALICE)
    assert [state for state, _ in clinic.states()] == ["pending", "held", "pending"]
    run(clinic)
    assert [row[-1] for row in facts_in(clinic.data_dir)] == ["agrees", "differs", "agrees"]
    shown = clinic.command("studies", "show", study)["patients"]
    assert [(each["patient_id"], each["images"]) for each in shown] == [("PATA", 2), ("PATB", 1)]


def test_it_goes_on_where_it_was_and_ends_once(clinic: Clinic) -> None:
    study = new_uid()
    for _ in range(BACKFILL_BATCH + 5):
        clinic.send(study, ALICE)
    age(clinic)
    first = Backfill(clinic.db, clinic.intake)
    assert first.step()
    assert progress(clinic)["read"] == BACKFILL_BATCH
    assert len(facts_in(clinic.data_dir)) == BACKFILL_BATCH
    assert run(clinic) == 2
    assert len(facts_in(clinic.data_dir)) == BACKFILL_BATCH + 5
    assert run(clinic) == 0


def test_a_file_that_cannot_be_read_is_passed_over_and_counted(clinic: Clinic) -> None:
    study = new_uid()
    for _ in range(3):
        clinic.send(study, ALICE)
    age(clinic)
    clinic.spool.path_of(str(clinic.one("SELECT path FROM instance WHERE id = 2"))).unlink()
    run(clinic)
    assert [row[0] for row in facts_in(clinic.data_dir)] == [1, 3]
    assert progress(clinic)["unreadable"] == 1


def test_the_thread_does_it_beside_the_service_and_stops(clinic: Clinic) -> None:
    clinic.send(new_uid(), ALICE)
    age(clinic)
    thread = Backfill(clinic.db, clinic.intake)
    thread.worker.start()
    wait_until(lambda: progress(clinic)["finished_at"], 10, "all is read")
    thread.worker.stop()
    assert len(facts_in(clinic.data_dir)) == 1


def test_a_new_installation_has_nothing_to_read(clinic: Clinic) -> None:
    assert progress(clinic) is None
    assert run(clinic) == 0


def test_the_migration_of_an_older_catalog_keeps_everything_and_reads_nothing(tmp_path: Path) -> None:
    conn = older(tmp_path / "catalog.db")
    conn.execute("INSERT INTO kind VALUES (1, '1.2', '1.2')")
    conn.execute(
        "INSERT INTO study (id, study_uid, patient_id, first_received, last_received) VALUES (1, '1', 'A', 0, 0)"
    )
    conn.execute(
        "INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, study_id, state, path, size, dataset_offset,"
        " calling_ae, called_ae, address, received_at) VALUES (9, '1.2.3', x'00', 1, 1, 'stored', 'a/b', 9, 0,"
        " '', '', '', 0)"
    )
    migrate(conn)
    assert conn.execute("SELECT series_id, instance_number FROM instance").fetchone()[:] == (None, "")
    assert conn.execute("SELECT value FROM gateway WHERE name = 'backfill'").fetchone()[0] == '{"last": 9}'
    told = {row[0] for row in conn.execute("SELECT name FROM gateway")}
    assert not told & {"figures", "equipment"}  # what lies there is counted, and its makers are learned
    assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    conn.close()
