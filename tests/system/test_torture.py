"""The torture's own tools: they strike where they say, and what is wrong they see."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.nursery import GATEWAYS
from tests.support.peers import REPOSITORY
from tests.torture import report
from tests.torture.__main__ import ORDER
from tests.torture.custody import Archive, Custody, Made, Sender
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Score
from tests.torture.rows import ROWS
from tests.torture.rows.fuzz import Decoder
from tests.torture.rows.points import Traced, answers_of, out_of_order, synced_again
from tests.torture.sabotage import SABOTAGES
from tests.torture.tracer import Step


def test_the_page_describes_every_row() -> None:
    page = (REPOSITORY / "docs" / "reliability.md").read_text()
    assert [row.name for row in ROWS if f"| `{row.name}` | {row.what} |" not in page] == []


def test_custody_sees_what_is_wrong(tmp_path: Path) -> None:
    custody = Custody()
    with Archive(custody) as archive:
        archive.closed = True
        with Gateway(tmp_path / "edge", archive_at(archive.port), GATEWAYS) as gateway:
            gateway.start()
            Sender(gateway.port, Made(tmp_path / "made", (2_000,)), custody, random.Random(1)).send(4)
            assert custody.taken == 4
            assert custody.check(gateway.data_dir, archive) == []
            spool = sorted((gateway.data_dir / "spool").rglob("*.dcm"))
            spool[0].unlink()
            with spool[1].open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"!")
            uid = list(custody.accepted)[2]
            with closing(sqlite3.connect(gateway.data_dir / "catalog.db", timeout=60)) as conn, conn:
                conn.execute("UPDATE instance SET sop_instance_uid = '1.2' WHERE sop_instance_uid = ?", (uid,))
            refused = list(custody.accepted)[3]
            custody.accepted.pop(refused)
            custody.open.discard(refused)
            custody.answered(refused, b"", 0xA700)
            wrong = "\n".join(custody.check(gateway.data_dir, archive, seconds=0.1))
    assert wrong.count("was answered with success") == 3
    for words in ("its file is gone", "is not what was sent", "is not in the catalog", "and is kept as accepted"):
        assert words in wrong


def test_an_archive_sees_bytes_that_nobody_sent(tmp_path: Path) -> None:
    custody = Custody()
    with Archive(custody) as archive:
        custody.offers("1.2.3", hashlib.sha256(b"good").digest())
        for data in (b"good", b"good", b"bad"):
            archive.keep(_received(data))
    assert archive.again == 1
    assert archive.faults == ["archive got 1.2.3 with bytes that nobody sent"]


def _received(data: bytes):  # type: ignore[no-untyped-def]
    from tests.support.scripted import Received

    return Received("1.2.3", "", "", data, 0, 0.0)


@pytest.mark.parametrize(("act", "alive"), [("kill", False), ("EIO", True), ("none", True)])
def test_the_tracer_strikes_one_step(tmp_path: Path, act: str, alive: bool) -> None:
    with Gateway(tmp_path / "edge", archive_at(1), GATEWAYS) as gateway:
        traced = Traced(gateway, tmp_path / "steps", "writes", "mkdir data directory#1", act)
        assert gateway.becomes_ready() is alive  # its first step makes the data directory, which is there already
        steps = traced.end()
    assert [step.number for step in steps if step.struck] == ([] if act == "none" else [1])
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert (len(steps) > 20) is alive


def step(number: int, call: str, target: str, struck: bool = False, thread: int = 1) -> Step:
    return Step(number, thread, call, target if target.startswith("socket:") else f"/x/data/{target}", struck)


def test_a_sync_that_is_repeated_is_seen() -> None:
    log = "catalog.db-wal"
    assert synced_again([step(1, "fdatasync", log, True), step(2, "pwrite64", log), step(3, "fsync", "spool")]) == []
    assert synced_again([step(1, "fdatasync", log, True), step(2, "fdatasync", log)]) != []
    bucket = "spool/2026010101"
    assert synced_again([step(1, "fsync", bucket, True), step(2, "rename", "a.part"), step(3, "fsync", bucket)]) != []


@pytest.mark.parametrize(
    ("call", "target", "again"),
    [
        ("syncfs", "../data", ("writev", "spool/2026010101/a.dcm")),
        ("fsync", "journal", ("rename", "journal/00000003.new")),
        ("pwritev2", "journal/00000003.seg", ("rename", "journal/00000003.new")),
        ("fdatasync", "journal/00000003.new", ("unlink", "journal/00000003.new")),
    ],
)
def test_what_is_written_again_may_be_synced_again(call: str, target: str, again: tuple[str, str]) -> None:
    first = [step(1, *again), step(2, call, target, True)]
    assert synced_again([*first, step(3, *again), step(4, call, target)]) == []
    assert synced_again([*first, step(3, call, target), step(4, *again)]) != []


def test_what_was_only_renamed_into_the_spool_need_not_be_written_again() -> None:
    long, written = step(1, "rename", "journal/01ab.part"), step(1, "writev", "spool/2026010101/a.dcm")
    sync, failed, again = step(2, "syncfs", "../data"), step(4, "syncfs", "../data", True), step(5, "syncfs", "../data")
    assert synced_again([long, failed, again]) == []
    assert synced_again([written, sync, long, failed, again]) == []
    assert synced_again([written, long, failed, again]) != []


def test_sqlite_may_sync_the_name_of_its_log_where_the_sync_of_the_spool_has_failed() -> None:
    written, failed = step(1, "writev", "spool/2026010101/a.dcm"), step(2, "syncfs", "../data", True)
    assert synced_again([written, failed, step(3, "fdatasync", "../data", thread=2)]) == []
    assert synced_again([written, failed, step(3, "fdatasync", "../data"), step(4, "syncfs", "../data")]) != []


def test_each_thread_syncs_its_own_names_in_the_journal() -> None:
    failed, other = step(1, "fsync", "journal", True), step(2, "fsync", "journal", thread=2)
    assert synced_again([failed, other]) == []
    assert synced_again([failed, other, step(3, "fsync", "journal")]) != []
    others = step(2, "rename", "journal/00000003.new", thread=2)
    assert synced_again([failed, others, step(3, "fsync", "journal")]) != []
    assert synced_again([failed, step(2, "unlink", "journal/01ab.part"), step(3, "fsync", "journal")]) == []


def test_a_missing_sync_is_seen() -> None:
    link, data, log = "socket:[7]", "../data", "catalog.db-wal"
    whole = [
        step(1, "sendto", link),  # A-ASSOCIATE-AC
        step(2, "pwritev2", "journal/00000001.seg"),
        step(3, "sendto", link),
        step(4, "writev", "spool/2026010101/a.dcm"),
        step(5, "syncfs", data),
        step(6, "fdatasync", log),
        step(7, "sendto", link),  # A-RELEASE-RP
    ]
    assert answers_of(whole, 1) == [2]
    others = step(9, "sendto", "socket:[8]", thread=2)
    assert answers_of([*whole[:2], others, *whole[2:]], 1) == [3], "another thread sends before it is answered"
    assert out_of_order(whole, 2) == out_of_order(whole, 3) == []
    assert out_of_order([whole[0], whole[2], whole[1]], 1), "the answer before the record"
    for missing in (4, 5):
        assert out_of_order([each for number, each in enumerate(whole) if number != missing], 3), f"without {missing}"
    assert out_of_order([*whole[:4], whole[5], whole[4]], 3), "the rows before the file"


def test_the_decoder_says_nothing_of_what_a_caller_sends(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        score = Decoder().play(tmp_path, Budget(3_000, 60, 1))
    assert (score.survived, score.faults) == (3_000, [])
    assert [str(each.message) for each in said] == []


def test_scores_are_kept_row_by_row(tmp_path: Path) -> None:
    facts = dict.fromkeys(("date", "machine", "system", "edge", "peers"), "x")
    good, bad = Score(tried=2, survived=2), Score(missing="no loop devices")
    bad.tell(["it was lost"], "round 1")
    first = [report.entry(row, good, 1.0, 1, facts) for row in ROWS[:2]]
    report.keep(tmp_path / "s.json", first, ORDER)
    whole = report.keep(tmp_path / "s.json", [report.entry(ROWS[1], bad, 2.0, 1, facts)], ORDER)
    assert [each["holds"] for each in whole] == [True, False]
    assert [each["name"] for each in report.failed(whole)] == [ROWS[1].name]
    assert "MISSING" in report.markdown(whole)


def test_every_sabotage_is_still_possible_and_its_row_exists() -> None:
    for each in SABOTAGES:
        assert (REPOSITORY / each.file).read_text().count(each.old) == 1, f"sabotage it elsewhere: {each.promise}"
        assert each.row in ORDER
