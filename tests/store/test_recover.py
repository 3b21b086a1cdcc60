"""`edge recover`: whatever is left of the past, the new catalog knows it again."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from edge.intake.hl7_entry import enter_message, read_frame
from edge.intake.policy import Policy
from edge.journal import body_file
from edge.journal.kinds.hl7_frame import Hl7Frame
from edge.model import Outcome
from edge.storage.rebuild import MARKER, recover
from edge.storage.rebuild.job import RebuildReport
from edge.store import eviction, identity_copy, ledger, ledger_copy, operator_actions
from edge.store.database import Transaction
from edge.store.identity_copy import IdentityCopy
from edge.store.ledger_copy import Journal
from edge.store.salvage import Salvage
from tests.support.filled import Filled
from tests.support.hl7 import merge, order, update
from tests.support.objects import ct_files

#: What the new catalog must have of the old one.
PAST = {
    "instances": "SELECT id, sop_instance_uid, hex(sha256), state, path, size, dataset_offset, study_id, series_uid,"
    " calling_ae, called_ae, address, received_at FROM instance ORDER BY id",
    "deliveries": "SELECT instance_id, destination, state, reason, reason_code, reason_parameters FROM delivery"
    " ORDER BY 1, 2",
    "studies": "SELECT id, study_uid FROM study ORDER BY id",
    "ledger": "SELECT seq, at, event, who, study_id, instances, destination, detail, payload, hex(hash) FROM ledger"
    " WHERE event <> 'recovered' ORDER BY seq",
    "tally": "SELECT destination, state, sum(n) FROM tally WHERE n <> 0 GROUP BY 1, 2",
    "open": "SELECT id, open_deliveries, confirmed_at IS NULL FROM instance ORDER BY id",
}


def past(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as conn:
        conn.row_factory = sqlite3.Row
        found: dict[str, Any] = {name: conn.execute(sql).fetchall() for name, sql in PAST.items()}
    for name, rows in found.items():
        found[name] = [tuple(row) for row in rows]
    return found


@pytest.fixture
def lived(tmp_path: Path) -> Filled:
    """A store with every kind of past: sent, proved, held, released, denied, evicted, in conflict, unroutable."""
    filled = Filled(tmp_path)
    filled.receive(6)
    filled.settle("archive", 4)
    filled.settle("archive", 1, proved=False)
    filled.settle("archive", 1, Outcome.HOLD, "the archive does not take it")
    filled.receive(3, StudyDescription="ACUTE STROKE")
    filled.receive(2, Modality="OT")  # no route
    (blob,) = (path.read_bytes() for path in ct_files(tmp_path / "one", 1, 2048))
    filled.accept(blob)
    filled.accept(blob.replace(b"Test^Patient", b"Other^Person"))  # a conflict
    filled.receive(2)

    def by_hand(conn: Transaction) -> None:
        (waiting,) = conn.execute("SELECT id FROM delivery WHERE state = 'pending' ORDER BY id LIMIT 1").fetchone()
        operator_actions.hold(conn, [waiting], 5.0, "anna", "wrong patient")
        gone = eviction.evict(conn, 1, 1e12)
        assert gone is not None
        ledger.append(conn, 6.0, ledger.EVICTED, ledger.EDGE, [1], study_id=gone.study_id)
        filled.spool.remove(gone.path)

    filled.db.write(by_hand)
    filled.db.checkpoint()
    return filled


def journal(filled: Filled) -> None:
    with filled.db.reading() as conn:
        Journal(filled.data_dir).write(conn)


def run(filled: Filled) -> RebuildReport:
    filled.close()
    return recover(filled.data_dir, Policy.from_config(filled.config), "anna")


def test_from_a_catalog_that_can_be_read(lived: Filled) -> None:
    before = past(lived.data_dir / "catalog.db")
    told = run(lived)
    assert past(lived.data_dir / "catalog.db") == before
    assert (told.instances, told.adopted, told.lost, told.queued) == (15, 0, 0, 0)
    assert (Path(told.kept) / "catalog.db").exists()


def test_from_the_journal_alone(lived: Filled) -> None:
    journal(lived)
    before = past(lived.data_dir / "catalog.db")
    lived.close()
    (lived.data_dir / "catalog.db").unlink()
    told = recover(lived.data_dir, Policy.from_config(lived.config), "anna")
    after = past(lived.data_dir / "catalog.db")
    assert after == before
    assert (told.instances, told.adopted, told.lost, told.ledger_missing) == (15, 0, 0, 0)


def packed_journal(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """In files of a few rows, all but the last of them packed in members of fewer."""
    monkeypatch.setattr(ledger_copy, "FILE_BYTES", 2_000)
    monkeypatch.setattr(ledger_copy, "PACKED_BYTES", 500)
    copy = Journal(filled.data_dir)
    with filled.db.reading() as conn:
        while copy.write(conn, limit=1):
            pass
    while copy.pack_one():
        pass
    assert len(list((filled.data_dir / "journal").glob("*.jsonl"))) == 1
    return copy


def test_from_a_packed_journal_alone(lived: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    packed_journal(lived, monkeypatch)
    before = past(lived.data_dir / "catalog.db")
    lived.close()
    (lived.data_dir / "catalog.db").unlink()
    recover(lived.data_dir, Policy.from_config(lived.config), "anna")
    assert past(lived.data_dir / "catalog.db") == before


def test_a_bit_that_rots_in_a_packed_journal_costs_the_lines_of_its_member(
    lived: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = packed_journal(lived, monkeypatch)
    whole = [entry.seq for entry in copy.entries()]
    path = min((lived.data_dir / "journal").glob("*.gz"))
    members, lines = path.read_bytes().count(ledger_copy._MEMBER), len(list(ledger_copy._lines(path)))
    assert members >= 3
    kept = path.read_bytes()
    for at in range(0, len(kept), 7):
        data = bytearray(kept)
        data[at] ^= 4
        path.write_bytes(data)
        left = [entry.seq for entry in copy.entries()]
        assert set(left) <= set(whole)
        assert len(whole) - len(left) < lines, f"byte {at}"


@pytest.mark.parametrize("step", ["rename", "unlink"])
def test_a_packing_that_was_killed_is_done_again(lived: Filled, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    journal(lived)
    copy = Journal(lived.data_dir)
    (first,) = (lived.data_dir / "journal").glob("*.jsonl")
    whole = [entry.seq for entry in copy.entries()]
    monkeypatch.setattr(ledger_copy, "FILE_BYTES", 0)
    lived.receive(1)
    journal(lived)
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, Mock(side_effect=OSError("it ends here")))
        with pytest.raises(OSError, match="ends here"):
            copy.pack_one()
    assert body_file.list_files(lived.data_dir / "journal") == [], "a receiver's end removes those"
    assert [entry.seq for entry in copy.entries()][: len(whole)] == whole
    assert copy.pack_one()
    assert not first.exists()
    assert [entry.seq for entry in copy.entries()][: len(whole)] == whole
    assert not copy.pack_one()


def test_from_the_files_alone(lived: Filled) -> None:
    before = past(lived.data_dir / "catalog.db")
    lived.close()
    (lived.data_dir / "catalog.db").unlink()
    told = recover(lived.data_dir, Policy.from_config(lived.config), "anna")
    after = past(lived.data_dir / "catalog.db")
    uids = [{row[1:3] for row in each["instances"] if row[3] != "evicted"} for each in (before, after)]
    assert uids[0] == uids[1]
    assert (told.instances, told.adopted) == (0, 14)
    with closing(sqlite3.connect(lived.data_dir / "catalog.db")) as conn:
        states = dict(conn.execute("SELECT state, count(*) FROM delivery GROUP BY 1"))
    assert states == {"pending": 14, "held": 3}, "all is sent again, what is in conflict or unroutable is held"


def test_the_ledgers_gaps_are_filled_from_the_journal(lived: Filled) -> None:
    journal(lived)
    before = past(lived.data_dir / "catalog.db")
    lived.close()
    with closing(sqlite3.connect(lived.data_dir / "catalog.db", isolation_level=None)) as conn:
        conn.execute("DROP TRIGGER ledger_is_append_only_update")
        conn.execute("DROP TRIGGER ledger_is_append_only_delete")
        conn.execute("DELETE FROM ledger WHERE seq BETWEEN 5 AND 9")
        conn.execute("UPDATE ledger SET who = 'MALLORY' WHERE seq = 12")
    assert recover(lived.data_dir, Policy.from_config(lived.config), "anna").ledger_missing == 0
    assert past(lived.data_dir / "catalog.db")["ledger"] == before["ledger"]
    with closing(sqlite3.connect(lived.data_dir / "catalog.db")) as conn:
        assert ledger.check(conn) is None


def test_a_file_that_is_gone_meanwhile_is_lost_and_said_so(lived: Filled) -> None:
    lived.spool.path_of(lived.one("SELECT path FROM instance WHERE id = 3")).unlink()
    assert run(lived).lost == 1
    with closing(sqlite3.connect(lived.data_dir / "catalog.db")) as conn:
        assert conn.execute("SELECT state FROM instance WHERE id = 3").fetchone() == ("lost",)
        assert conn.execute("SELECT instances FROM ledger WHERE event = 'lost'").fetchall() == [("[3]",)]


@pytest.mark.parametrize("seed", range(12))
def test_from_a_catalog_with_random_pages_in_it(lived: Filled, seed: int) -> None:
    """Whatever is destroyed, no file is lost, nothing proved is sent again, and the ledger stays whole."""
    journal(lived)
    before = past(lived.data_dir / "catalog.db")
    lived.close()
    dice, path = random.Random(seed), lived.data_dir / "catalog.db"
    pages = path.stat().st_size // 4096
    with path.open("r+b") as file:
        for page in dice.sample(range(pages), 1 + seed % 5):
            file.seek(page * 4096)
            file.write(dice.randbytes(4096))
    told = recover(lived.data_dir, Policy.from_config(lived.config), "anna")
    after = past(path)
    assert after["instances"] == before["instances"]
    assert after["ledger"] == before["ledger"]
    assert (told.lost, told.adopted, told.ledger_missing) == (0, 0, 0)
    assert after["deliveries"] == before["deliveries"]
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert ledger.check(conn) is None


class Interrupted(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["rename", "mkdir", "unlink", "restore_instances", "adopt_files"])
def test_an_interrupted_recovery_is_run_again(lived: Filled, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = past(lived.data_dir / "catalog.db")
    lived.close()
    where = {"rename": "edge.storage.rebuild.os.rename", "mkdir": "pathlib.Path.mkdir", "unlink": "pathlib.Path.unlink"}
    for nth in range(4):
        calls = 0
        with monkeypatch.context() as patch:
            name = where.get(step, f"edge.storage.rebuild.instances.{step}")
            real = _named(name)

            def dies(*args: Any, nth: int = nth, real: Callable[..., Any] = real, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > nth:
                    raise Interrupted
                return real(*args, **named)

            patch.setattr(name, dies)
            try:
                recover(lived.data_dir, Policy.from_config(lived.config), "anna")
            except Interrupted:
                pass
    recover(lived.data_dir, Policy.from_config(lived.config), "anna")
    assert not (lived.data_dir / MARKER).exists()
    assert past(lived.data_dir / "catalog.db") == before


def _named(name: str) -> Any:
    from pkgutil import resolve_name

    return resolve_name(name)


def test_salvage_reads_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        conn.execute("BEGIN")
        conn.executemany("INSERT INTO t VALUES (?, ?)", [(n, f"row {n} " * 20) for n in range(1, 5001)])
        conn.execute("COMMIT")
    whole = list(Salvage(path).rows("t"))
    assert len(whole) == 5000
    with path.open("r+b") as file:
        file.seek(50 * 4096)
        file.write(bytes(4096))
    salvage = Salvage(path)
    rows = list(salvage.rows("t"))
    salvage.close()
    assert 4900 < len(rows) < 5000
    assert all(row in whole for row in rows)
    shutil.copy(path, tmp_path / "other.db")
    (tmp_path / "other.db").write_bytes(b"nothing of the kind" * 1000)
    assert Salvage(tmp_path / "other.db").tables() == []


IDENTITY = (
    "assigning_authority",
    "known_patient",
    "patient_identifier",
    "patient_merge",
    "imaging_order",
    "hl7_message",
)


def known(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as conn:
        return {table: sorted(conn.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in IDENTITY}


def hear_patients(filled: Filled) -> None:
    """A merged into B and B into C, an order, and a merge that is parked."""
    cycle = [merge(f"m{old}", f"PAT-{old}", f"PAT-{new}") for old, new in ("AB", "BC", "CA")]
    for number, data in enumerate([*(update(f"u{each}", f"PAT-{each}", f"TEST^{each}") for each in "ABC"), *cycle]):
        hear(filled, number, data)
    hear(filled, 99, order("o1", "NW", "77", "PAT-C"))


def hear(filled: Filled, number: int, data: bytes) -> None:
    for each in read_frame(f"record{number}", Hl7Frame("his", "10.10.9.5", 5.0, "MTF0067"), data):
        filled.db.write(lambda conn, each=each: enter_message(conn, each, {}))  # type: ignore[misc]


def test_patients_merges_and_orders_are_as_they_were(lived: Filled) -> None:
    hear_patients(lived)
    before = known(lived.data_dir / "catalog.db")
    assert len(before["patient_merge"]) == 2
    run(lived)
    assert known(lived.data_dir / "catalog.db") == before


def copy_identity(filled: Filled, copy: IdentityCopy) -> None:
    with filled.db.reading() as conn:
        last = copy.write(conn)
    filled.db.write(lambda conn: identity_copy.forget_copied(conn, last))


def test_patients_merges_and_orders_survive_the_loss_of_the_catalog(lived: Filled) -> None:
    """What is parked is in custody; of what is done there is what recognizes it: sent again, it changes nothing."""
    journal(lived)
    copy = IdentityCopy(lived.data_dir)
    hear_patients(lived)
    copy_identity(lived, copy)
    hear(lived, 100, update("u100", "PAT-C", "MARRIED^C"))
    copy_identity(lived, copy)
    before = known(lived.data_dir / "catalog.db")
    lived.close()
    for path in lived.data_dir.glob("catalog.db*"):
        path.unlink()
    recover(lived.data_dir, Policy.from_config(lived.config), "anna")
    after = known(lived.data_dir / "catalog.db")
    is_parked = [row[12] == "parked" for row in before["hl7_message"]]
    assert (is_parked.count(True), len(is_parked)) == (3, 8)
    assert after.pop("hl7_message") == [
        row if parked else (*row[:-1], None) for row, parked in zip(before.pop("hl7_message"), is_parked, strict=True)
    ]
    assert after == before
    assert (lived.data_dir / identity_copy.IDENTITY_FILE).stat().st_mode & 0o077 == 0


def test_a_message_that_comes_again_after_the_loss_of_the_catalog_does_not_bring_an_old_name_back(
    lived: Filled,
) -> None:
    journal(lived)
    for number, name in enumerate(("TEST^OLD", "TEST^NEW")):
        hear(lived, number, update(f"u{number}", "PAT-A", name))
    lived.execute(
        "INSERT INTO deidentified_instance VALUES ('research', '2.25.1', '2.25.2', '1.2.1', '1.2.2', '1.2.3', '2.25.3')"
    )
    copy_identity(lived, IdentityCopy(lived.data_dir))
    lived.close()
    for path in lived.data_dir.glob("catalog.db*"):
        path.unlink()
    recover(lived.data_dir, Policy.from_config(lived.config), "anna")
    with Filled(lived.tmp_path) as again:
        hear(again, 99, update("u0", "PAT-A", "TEST^OLD"))
        assert again.one("SELECT name FROM known_patient") == "TEST^NEW"
        assert again.one("SELECT repeats FROM hl7_message WHERE control_id = 'u0'") == 1
        assert again.one("SELECT study_uid FROM deidentified_instance WHERE sent_uid = '2.25.1'") == "1.2.2"


def test_a_catalog_that_has_lost_a_merge_gets_it_back_and_keeps_what_is_newer(lived: Filled) -> None:
    copy = IdentityCopy(lived.data_dir)
    hear(lived, 1, update("u1", "PAT-A", "TEST^A"))
    hear(lived, 2, update("u2", "PAT-B", "TEST^B"))
    copy_identity(lived, copy)
    hear(lived, 3, merge("m1", "PAT-A", "PAT-B"))
    copy_identity(lived, copy)
    lived.db.write(lambda conn: conn.execute("UPDATE known_patient SET survivor_id = NULL"))
    lived.db.write(lambda conn: conn.execute("DELETE FROM identity_change"))  # it is an older catalog
    hear(lived, 4, update("u4", "PAT-B", "NEWER^B"))
    run(lived)
    with closing(sqlite3.connect(lived.data_dir / "catalog.db")) as conn:
        found = conn.execute("SELECT id, survivor_id, name FROM known_patient ORDER BY id").fetchall()
    assert found == [(1, 2, "TEST^A"), (2, None, "NEWER^B")]


def test_a_copy_written_again_says_the_same(lived: Filled) -> None:
    copy = IdentityCopy(lived.data_dir)
    hear_patients(lived)
    copy_identity(lived, copy)
    before = identity_copy.read_copy(lived.data_dir)
    with lived.db.reading() as conn:
        copy.write_whole(conn)
    with (lived.data_dir / identity_copy.IDENTITY_FILE).open("ab") as file:
        file.write(b'["known_patient",[1],{"id":1,"na')  # a crash
    hear(lived, 100, update("u100", "PAT-C", "MARRIED^C"))
    copy_identity(lived, copy)
    after = identity_copy.read_copy(lived.data_dir)
    changed = {table for table in after if after[table] != before[table]}
    assert changed == {"hl7_message", "hl7_parked_identifier"}  # it waits behind what is parked
