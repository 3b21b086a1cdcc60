"""Beside years of instances a gateway works as beside none: what comes again and again, and what follows a start."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.intake.rechecks import COUNT_SECONDS, RECHECK_SECONDS, Rechecks
from edge.model import Disk
from edge.monitor.sampler import Gauges
from edge.storage import recovery, scrub
from edge.storage.repair import Repairer
from edge.storage.scrub import Scrub
from edge.store import (
    gateway_values,
    header_progress,
    hl7_messages,
    identity_checks,
    kept_files,
    performed_steps,
    rejection_notes,
)
from edge.store.database import Transaction
from tests.support.effort import counted_steps
from tests.support.filled import Filled

YEARS = 12_000


def evicted(conn: Transaction) -> None:
    """Instances that are proved and evicted, in buckets of a thousand."""
    conn.execute("INSERT INTO kind VALUES (1, '1.2', '1.2.1')")
    conn.execute("INSERT INTO study (id, study_uid, first_received, last_received) VALUES (1, '1.2.3', 1, 1)")
    conn.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, study_id, state, path, size, dataset_offset,"
        " calling_ae, called_ae, address, received_at)"
        " SELECT i, i, x'00', 1, 1, 'evicted', printf('20010101%02d/%d.dcm', i / 1000, i), 9, 0,"
        " 'A', 'B', 'C', i FROM n",
        (YEARS,),
    )
    conn.execute(
        "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, queued_at)"
        " SELECT id, 'archive', 1, 9, 2, 'confirmed', id FROM instance"
    )
    header_progress.keep_place(conn, YEARS)


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as filled:
        filled.db.write(evicted)
        yield filled


def recall(grown: Filled, name: str) -> int:
    with grown.db.reading() as conn:
        return int(gateway_values.recall(conn, name) or 0)


def test_notes_and_lost_files_are_found_without_reading_what_was_evicted(grown: Filled) -> None:
    with grown.db.reading() as conn, counted_steps(conn) as steps:
        assert not rejection_notes.has_notes(conn)
        assert kept_files.lost_files(conn) == []
    assert steps[0] < YEARS // 10
    assert grown.db.write(lambda conn: rejection_notes.settle_waiting_notes(conn, 1.0)) == 0


def test_the_scrub_passes_what_was_evicted_in_steps(grown: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "_SPAN", 5000)
    grown.receive(2)
    walk = Scrub(grown.db, grown.spool, Repairer(grown.db, grown.spool, lambda: grown.config), lambda: False)
    assert [walk.step() for _ in range(4)] == [scrub._SPAN_SECONDS, scrub._SPAN_SECONDS, 0.0, 0.0]
    assert (walk.place.files, walk.place.damaged, walk.place.instance_id) == (2, 0, YEARS + 2)
    assert walk.place.finished_at is not None


def test_figures_of_years_are_counted_a_part_at_a_time(grown: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.monitor.sampler.CATCH_UP_SECONDS", 0.0)
    gauges = Gauges(grown.db, lambda: grown.config, lambda: Disk(100, 50), lambda: pytest.fail("no snapshot"))
    gauges.count_figures()
    assert 0 < recall(grown, "figures") < YEARS
    for _ in range(YEARS // 1000):
        gauges.count_figures()
    assert recall(grown, "figures") == YEARS


def test_images_of_years_are_counted_with_pauses(grown: Filled) -> None:
    rechecks = Rechecks(grown.db, lambda: grown.intake.policy)
    assert [rechecks.step() for _ in range(3)] == [COUNT_SECONDS, COUNT_SECONDS, RECHECK_SECONDS]


def test_the_walk_through_the_spool_reads_no_evicted_rows_and_rests(
    grown: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown.receive(1)
    pauses: list[float] = []
    seconds = itertools.count()
    monkeypatch.setattr("edge.storage.recovery.time.monotonic", lambda: float(next(seconds)))

    def note(pause: float) -> bool:
        pauses.append(pause)
        return False

    assert recovery.reconcile(grown.db, grown.spool, grown.intake, 1e12, note, lambda: 1.0) == []
    assert pauses[:2] == [0.0, recovery.REST]
    assert len(pauses) == YEARS // 1000 + 2
    assert all(not recovery.read_bucket(grown.db, grown.spool, f"20010101{n:02}", 1e12)[1] for n in range(13))


def test_a_file_of_an_evicted_row_is_still_removed_and_one_that_is_missing_lost(grown: Filled) -> None:
    grown.receive(1)
    with grown.db.reading() as conn:
        (path,) = conn.execute("SELECT path FROM instance WHERE state = 'stored'").fetchone()
    grown.spool.path_of(path).unlink()
    left = grown.spool.path_of("2001010100/7.dcm")
    left.parent.mkdir()
    left.write_bytes(b"123456789")
    found = recovery.reconcile(grown.db, grown.spool, grown.intake, 1e12, threading.Event().wait, lambda: 1.0, rest=0.0)
    assert [each.leftovers for each in found if each.leftovers] == [("2001010100/7.dcm",)]
    assert not left.exists()
    assert [reason for each in found for _, _, reason in each.lost] == ["its file is gone"]
    assert grown.one("SELECT count(*) FROM instance WHERE state = 'lost'") == 1


def years_of_messages(conn: Transaction) -> None:
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most) "
    for sql in (
        "INSERT INTO patient (patient_id, issuer, name, birth_date, sex, responsible_person)"
        " SELECT 'P' || i, '', '', '', '', '' FROM n WHERE i <= :most / 3",
        "INSERT INTO study_facts (study_id, patient_key, accession, study_date, study_time, study_number, description,"
        " referring_physician) SELECT 1, 1 + i % (:most / 3), i, '', '', '', '', '' FROM n",
        "INSERT INTO known_patient (id, changed_at) SELECT 1, 1",
        "INSERT INTO assigning_authority (id, namespace, universal_id, universal_type) SELECT 1, 'HIS', '', ''",
        "INSERT INTO patient_identifier (number, authority_id, patient_key) SELECT 'P7', 1, 1",
        "INSERT INTO hl7_message (record, position, feed, address, authority, control_id, event, digest, size, state,"
        " received_at, applied_at) SELECT i, 0, 'his', '', '', i, 'ADT^A08', x'00', 9, 'applied', i, i FROM n",
        "INSERT INTO performed_step (sop_instance_uid, state, digest, calling_ae, called_ae, address, modality_name,"
        " station_ae, modality, step_id, study_uid, accession_number, created_at, ended_at)"
        " SELECT i, 'COMPLETED', x'', '', '', '', '', '', '', '', '', '', i, i FROM n",
        "INSERT INTO step_message (id, step_id, kind, is_final, record, sop_instance_uid, transfer_syntax, body,"
        " received_at) SELECT i, i, 'create', 0, i, i, '', x'', i FROM n",
        "INSERT INTO step_delivery (message_id, step_id, destination, state, not_before)"
        " SELECT i, i, 'ris', 'sent', 0 FROM n",
    ):
        conn.execute(("" if " FROM n" not in sql else numbers) + sql, {"most": YEARS})


@pytest.mark.parametrize(
    ("work", "most"),
    [
        (lambda conn: identity_checks.queue_patients(conn, [1]), YEARS // 10),
        (lambda conn: hl7_messages.forget_old_messages(conn, 21.0 + hl7_messages.ROW_KEPT_SECONDS), 2 * YEARS),
        (lambda conn: performed_steps.forget_old_steps(conn, 21.0), 10 * YEARS),
    ],
)
def test_a_patients_update_and_what_is_forgotten_ask_an_index(
    grown: Filled, work: Callable[[Transaction], object], most: int
) -> None:
    """A look through all rows for each of twenty would be twenty times as many."""
    grown.db.write(years_of_messages)

    def counted(conn: Transaction) -> int:
        with counted_steps(conn) as steps:
            work(conn)
        return steps[0]

    assert grown.db.write(counted) < most
