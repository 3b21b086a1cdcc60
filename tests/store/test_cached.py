"""What is fetched from an archive is cached: owed to nobody, counted as received from nobody, and the first to go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from edge.dicom import part10
from edge.journal.kinds import instance
from edge.journal.kinds.instance import RecordedInstance
from edge.model import Disk, InstanceHeader, Origin
from edge.storage.retention import Retention
from edge.store import catalog, integrity, ledger, prefetch, tallies
from edge.store.prefetch import PrefetchRequest, PriorStudy
from tests.support.filled import CT1, Filled
from tests.support.objects import ct_files

ARCHIVE = Origin("VNA", "EDGE", "10.0.0.9", 0.0, fetched_from="archive")


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as found:
        yield found


def coerce(path: Path) -> Path:
    """The same object as an archive has changed it."""
    data_set = pydicom.dcmread(path)
    data_set.InstitutionName = "ELSEWHERE"
    changed = path.with_name("coerced.dcm")
    data_set.save_as(changed)
    return changed


def rows(filled: Filled, sql: str) -> list[tuple]:
    with filled.db.reading() as conn:
        return [tuple(row) for row in conn.execute(sql)]


def check(filled: Filled) -> list[str]:
    with filled.db.reading() as conn:
        return [*integrity.check_rows(conn)]


def received_bytes(filled: Filled) -> int:
    with filled.db.reading() as conn:
        return tallies.bytes_so_far(conn)[0]


def test_its_origin_is_in_the_record_and_in_the_file(filled: Filled) -> None:
    header = InstanceHeader("1.2", "1.3", "1.4", ARCHIVE)
    assert instance.decode(instance.encode(RecordedInstance(header))).header.origin == ARCHIVE
    filled.receive(1, origin=ARCHIVE)
    (path,) = filled.spool.root.glob("*/*.dcm")
    meta = part10.parse_meta(path.read_bytes())
    assert meta.origin is not None
    assert meta.origin.fetched_from == "archive"


def test_a_record_of_a_release_before_has_no_source() -> None:
    old = instance.encode(RecordedInstance(InstanceHeader("1.2", "1.3", "1.4", CT1))).replace(b'0.0,""]', b"0.0]")
    assert instance.decode(old).header.origin == CT1


def test_it_goes_nowhere_and_counts_as_received_from_nobody(filled: Filled) -> None:
    filled.receive(2)
    before = received_bytes(filled)
    filled.receive(3, origin=ARCHIVE)
    assert rows(filled, "SELECT count(*) FROM delivery") == [(2,)]
    assert received_bytes(filled) == before
    assert rows(filled, "SELECT source, n FROM fetched_tally") == [("archive", 3)]
    assert rows(filled, "SELECT event, count(*) FROM ledger GROUP BY 1") == [("fetched", 3), ("received", 2)]
    assert check(filled) == []


def test_no_rule_keeps_it_for_good(tmp_path: Path) -> None:
    from tests.support.filled import CONFIG

    with Filled(tmp_path, CONFIG + "[hold.all]\nwhen = { Modality = 'CT' }\n") as filled:
        filled.receive(1, origin=ARCHIVE)
        assert rows(filled, "SELECT hold FROM instance") == [("",)]


def test_what_equipment_sends_later_is_routed_and_takes_its_place(filled: Filled) -> None:
    (path,) = ct_files(filled.tmp_path / "ct", 1, 1024)
    filled.accept(path.read_bytes(), ARCHIVE)
    filled.accept(path.read_bytes(), CT1)
    assert rows(filled, "SELECT fetched_from, calling_ae, state FROM instance") == [("", "CT1", "stored")]
    assert rows(filled, "SELECT destination, state FROM delivery") == [("archive", "pending")]
    assert len([*filled.spool.root.glob("*/*.dcm")]) == 1, "the copy that was fetched is gone"
    assert rows(filled, "SELECT n, bytes FROM fetched_tally") == [(0, 0)]
    assert check(filled) == []


def test_what_is_in_custody_is_never_replaced_by_what_an_archive_has_made_of_it(filled: Filled) -> None:
    (path,) = ct_files(filled.tmp_path / "ct", 1, 1024)
    filled.accept(path.read_bytes(), CT1)
    coerced = coerce(path)
    filled.accept(coerced.read_bytes(), ARCHIVE)
    assert rows(filled, "SELECT state, fetched_from FROM instance") == [("stored", "")]
    assert len([*filled.spool.root.glob("*/*.dcm")]) == 1


def test_other_bytes_of_what_was_fetched_are_no_conflict(filled: Filled) -> None:
    (path,) = ct_files(filled.tmp_path / "ct", 1, 1024)
    coerced = coerce(path)
    filled.accept(coerced.read_bytes(), ARCHIVE)
    filled.accept(path.read_bytes(), CT1)
    assert rows(filled, "SELECT state, fetched_from FROM instance ORDER BY id") == [
        ("stored", "archive"),
        ("stored", ""),
    ]
    assert rows(filled, "SELECT state FROM delivery") == [("pending",)]


def test_it_is_the_first_to_go_at_any_age(filled: Filled) -> None:
    filled.receive(2)
    filled.settle("archive", 2)
    filled.execute("UPDATE instance SET confirmed_at = 1.0")
    filled.receive(2, origin=ARCHIVE)
    sizes = rows(filled, "SELECT max(size) FROM instance")[0][0]
    disk = Disk(100 * sizes, 19 * sizes)
    config = filled.config
    retention = Retention(filled.db, filled.spool, lambda: config, lambda: disk)
    retention.make_room()
    assert rows(filled, "SELECT fetched_from, state FROM instance ORDER BY id")[2:] == [("archive", "evicted")] * 2
    assert rows(filled, "SELECT DISTINCT event FROM ledger WHERE event = 'evicted'") == [(ledger.EVICTED,)]


def test_nothing_of_it_goes_while_there_is_room(filled: Filled) -> None:
    filled.receive(1, origin=ARCHIVE)
    config = filled.config
    Retention(filled.db, filled.spool, lambda: config, lambda: Disk(100, 50)).make_room()
    assert rows(filled, "SELECT state FROM instance") == [("stored",)]


def test_what_was_evicted_and_is_fetched_again_is_cached(filled: Filled) -> None:
    (path,) = ct_files(filled.tmp_path / "ct", 1, 1024)
    kept = filled.tmp_path / "kept.dcm"
    shutil.copy(path, kept)
    filled.accept(path.read_bytes(), CT1)
    filled.settle("archive", 1)
    before = received_bytes(filled)
    filled.execute("UPDATE instance SET state = 'evicted'")
    filled.accept(kept.read_bytes(), ARCHIVE)
    assert rows(filled, "SELECT state, fetched_from FROM instance") == [("stored", "archive")]
    assert rows(filled, "SELECT state FROM delivery") == [("confirmed",)]
    assert abs(received_bytes(filled) - before) < 100  # of the head of the file
    filled.accept(kept.read_bytes(), CT1)
    assert abs(received_bytes(filled) - before) < 100  # of the head of the file
    assert rows(filled, "SELECT state, fetched_from FROM instance") == [("stored", "")]
    assert check(filled) == []


def test_a_cached_file_that_is_lost_is_forgotten_and_wanted_again(filled: Filled) -> None:
    """Nothing is lost: the archive has it. An appointment that wanted the study wants it again."""
    filled.receive(1, origin=ARCHIVE)
    ((path, uid),) = rows(filled, "SELECT i.path, s.study_uid FROM instance i JOIN study s")
    filled.execute(
        "INSERT INTO prefetch_request (rule, source, item_key, study_uid, patient_id, patient_name,"
        " birth_date, starts_at, noted_at, state) VALUES ('x', 'archive', 'k', '1.2', 'P1', '', '', '', 1, 'chosen')"
    )
    filled.execute(
        "INSERT INTO prefetch_study (source, study_uid, starts_at, state, instances, noted_at)"
        f" VALUES ('archive', '{uid}', '', 'fetched', 1, 1)"
    )
    filled.execute("INSERT INTO prefetch_wish VALUES (1, 1)")
    assert not filled.db.write(lambda conn: catalog.lose(conn, path, "its file is gone", 5.0))
    assert rows(filled, "SELECT state FROM instance") == [("evicted",)]
    assert rows(filled, "SELECT state FROM prefetch_study") == [("wanted",)]
    assert rows(filled, "SELECT event FROM ledger WHERE event IN ('lost', 'evicted')") == [("evicted",)]


def test_a_file_that_is_owed_is_lost_with_an_alarm(filled: Filled) -> None:
    filled.receive(1)
    ((path,),) = rows(filled, "SELECT path FROM instance")
    assert filled.db.write(lambda conn: catalog.lose(conn, path, "its file is gone", 5.0))
    assert rows(filled, "SELECT state FROM instance") == [("lost",)]


def test_the_study_of_the_nearest_appointment_is_fetched_first(filled: Filled) -> None:
    at = {"1.1": "20260103", "1.2": "20260101", "1.3": "20260102"}
    requests = [PrefetchRequest("ct", "archive", uid, uid, "P1", "", "", day) for uid, day in at.items()]
    filled.db.write(lambda conn: prefetch.note_requests(conn, requests, 1.0))
    with filled.db.reading() as conn:
        request = prefetch.next_request(conn, 2.0, ())
    assert request is not None
    assert request.study_uid == "1.2"
    for number, each in enumerate(requests, 1):  # in another order than theirs
        chosen, prior = replace(each, id=number), [PriorStudy(f"9.{each.study_uid}", 1)]
        filled.db.write(lambda conn, r=chosen, p=prior: prefetch.note_chosen(conn, r, p, 2.0))
    for uid in ("1.2", "1.3", "1.1"):
        with filled.db.reading() as conn:
            study = prefetch.next_study(conn, 3.0, ())
        assert study is not None
        assert study.study_uid == f"9.{uid}"
        filled.db.write(lambda conn, s=study: prefetch.note_fetched(conn, s.id, 1))
