"""What waits for a person is never sent, lost or overwritten by a command that does not name it.

The store is real, filled through intake; commands are typed while the gateway is down and asked of the running one's
handlers: both are the same functions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner, Result

from edge.cli import cli
from edge.daemon.changes import CHANGES, RELEASER_DECISIONS
from edge.errors import EdgeError
from edge.model import ContextKey, Disk, InstanceState, Origin
from edge.storage import recovery, verify
from edge.storage.release import Releaser
from edge.storage.retention import Retention
from edge.store import catalog, integrity, kept_files, leases
from edge.store.database import Store
from edge.store.ledger_copy import Journal
from tests.support.filled import CONFIG, Filled, take_in
from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files, dataset, part10, sop_instance_uid

NOW = 1_800_000_000.0
WHY = ("--reason", "seen")


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as made:
        yield made


def edge(filled: Filled, *args: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(filled.directory), *args])


def two_versions(filled: Filled, **attributes: Any) -> tuple[int, int]:
    """The right image, confirmed at the archive, and another person's under its SOP Instance UID."""
    (path,) = ct_files(filled.tmp_path / f"versions{filled.one('SELECT count(*) FROM instance')}", 1, 1024)
    filled.accept(path.read_bytes())
    filled.settle("archive", 1)
    wrong = pydicom.dcmread(path)
    wrong.PatientName, wrong.PatientID = "Other^Person", "P0002"
    for keyword, value in attributes.items():
        setattr(wrong, keyword, value)
    filled.accept(part10(wrong))
    rows = numbers(filled, "SELECT id FROM instance ORDER BY id DESC LIMIT 2")
    return rows[1], rows[0]


def numbers(filled: Filled, sql: str, *given: object) -> list[int]:
    with filled.db.reading() as conn:
        return [row[0] for row in conn.execute(sql, given)]


def states(filled: Filled, instance: int) -> dict[str, tuple[str, str]]:
    with filled.db.reading() as conn:
        rows = conn.execute("SELECT destination, state, reason_code FROM delivery WHERE instance_id = ?", (instance,))
        return {row[0]: (row[1], row[2]) for row in rows}


HELD = {"archive": ("held", "conflict")}


@pytest.mark.parametrize(
    "selection",
    [["--destination", "archive"], ["--all"], ["--study"], ["ID"]],
    ids=["destination", "all", "study", "id"],
)
def test_retry_never_touches_what_waits_for_a_decision(filled: Filled, selection: list[str]) -> None:
    _, wrong = two_versions(filled)
    if selection == ["--study"]:
        selection = ["--study", filled.one("SELECT study_uid FROM study")]
    if selection == ["ID"]:
        selection = [str(filled.one("SELECT id FROM delivery WHERE instance_id = ?", wrong))]
    done = edge(filled, "queue", "retry", *selection)
    assert states(filled, wrong) == HELD
    assert done.exit_code == 1
    assert f"edge instances show {wrong}" in done.stdout
    assert "edge instances release" in done.stdout


def test_another_destination_gets_no_undecided_image_either(filled: Filled) -> None:
    _, wrong = two_versions(filled)
    edge(filled, "queue", "reroute", "--destination", "archive", "--to", "teleread", *WHY)
    assert states(filled, wrong) == {"teleread": ("held", "conflict")}


def test_a_route_that_is_found_later_does_not_decide_a_conflict(filled: Filled) -> None:
    _, wrong = two_versions(filled, Modality="OT")  # no route matches this version
    assert states(filled, wrong) == {"": ("held", "unroutable")}
    text = CONFIG.replace('when = { Modality = { not = "OT" } }', "")
    (filled.directory / "site.toml").write_text(text)
    done = edge(filled, "instances", "release", "--unroutable", *WHY)
    assert done.exit_code == 1, done.output
    assert states(filled, wrong) == HELD


def test_a_conflict_that_was_lost_and_comes_again_is_a_conflict_again(filled: Filled) -> None:
    _, wrong = two_versions(filled)
    filled.execute("UPDATE instance SET state = 'lost' WHERE id = ?", wrong)
    filled.accept((filled.spool.path_of(filled.one("SELECT path FROM instance WHERE id = ?", wrong))).read_bytes())
    assert filled.one("SELECT state FROM instance WHERE id = ?", wrong) == "conflict"
    assert states(filled, wrong) == HELD


def test_a_retry_leaves_a_report_that_waits_for_its_images(filled: Filled) -> None:
    filled.receive(1, Modality="OT")
    filled.execute("UPDATE delivery SET state = 'deferred', reason_code = 'awaits-study', not_before = ?", NOW + 9e8)
    assert edge(filled, "queue", "retry", "--all").exit_code == 1
    assert states(filled, 1) == {"": ("deferred", "awaits-study")}


def test_what_a_person_holds_is_released_by_destination_or_patient_and_nothing_else(filled: Filled) -> None:
    _, wrong = two_versions(filled)
    filled.receive(2, PatientID="P0007")
    refused = filled.one("SELECT max(id) FROM instance")
    for selection in (["--destination", "archive"], ["--patient", "P0007"]):
        assert edge(filled, "queue", "hold", "--patient", "P0007", *WHY).exit_code == 0
        filled.execute("UPDATE delivery SET reason_code = 'refused' WHERE instance_id = ?", refused)
        done = edge(filled, "queue", "release", *selection, *WHY)
        assert "1 delivery queued to be sent." in done.stdout
        assert states(filled, refused) == {"archive": ("held", "refused")}
        assert edge(filled, "queue", "retry", "--patient", "P0007").exit_code == 0
    assert states(filled, wrong) == HELD
    listed = json.loads(edge(filled, "queue", "list", "--patient", "P0002", "--json").stdout)
    assert [each["instance_id"] for each in listed] == [wrong], "not the study's other patient"
    filled.receive(1, PatientID="P0007")
    other = filled.one("SELECT max(id) FROM instance")
    study = filled.one("SELECT study_uid FROM study ORDER BY id DESC")
    both = edge(filled, "queue", "list", "--patient", "P0007", "--study", study, "--json").stdout
    assert [each["instance_id"] for each in json.loads(both)] == [other], "of that study only"


# -- releasing and discarding ------------------------------------------------------------------------------------------


def test_a_conflict_is_released_by_its_number_and_what_it_replaces_is_said_before(filled: Filled) -> None:
    right, wrong = two_versions(filled)
    delivery = str(filled.one("SELECT id FROM delivery WHERE instance_id = ?", wrong))
    assert edge(filled, "instances", "release", str(wrong)).exit_code == 2  # no reason
    assert edge(filled, "instances", "release", str(wrong), "--reason", " ").exit_code == 2
    for selection in (["--destination", "archive"], ["--patient", "P0002"]):
        left = edge(filled, "queue", "release", *selection, *WHY)
        assert (left.exit_code, "1 left unchanged: no person holds them" in left.stdout) == (1, True)
    study = filled.one("SELECT study_uid FROM study")
    assert edge(filled, "queue", "release", "--study", study, *WHY).exit_code == 1
    assert states(filled, wrong) == HELD
    for shown in (edge(filled, "queue", "show", delivery), edge(filled, "instances", "show", str(wrong))):
        assert f"instance {right} under this SOP Instance UID (received" in shown.stdout
        assert f"instance {wrong} replaces it there" in shown.stdout
    first = shown.stdout.partition("compared\n")[2].splitlines()[0].split()
    assert first == ["PatientName", "Test^Patient", "Other^Person", "differs"], "what differs comes first"
    done = edge(filled, "queue", "release", delivery, *WHY)
    assert done.exit_code == 0
    assert f"instance {wrong} replaces it there" in done.stderr
    assert states(filled, wrong) == {"archive": ("pending", "")}
    assert filled.one("SELECT state FROM instance WHERE id = ?", wrong) == "stored"  # the alert ends


def test_a_route_of_another_day_is_not_dropped_in_silence(filled: Filled) -> None:
    _, wrong = two_versions(filled)
    delivery = filled.one("SELECT id FROM delivery WHERE instance_id = ?", wrong)
    (filled.directory / "site.toml").write_text(CONFIG.replace('to = ["archive"]', 'to = ["teleread"]'))
    done = edge(filled, "instances", "release", str(wrong), *WHY)
    assert f"still held for archive (delivery {delivery})" in done.stdout
    assert states(filled, wrong) == {"archive": ("held", "conflict"), "teleread": ("pending", "")}
    assert edge(filled, "queue", "cancel", str(delivery), *WHY).exit_code == 0
    assert filled.one("SELECT state FROM instance WHERE id = ?", wrong) == "stored"


def test_what_is_discarded_goes_nowhere_and_stays_provable_by_its_digest(filled: Filled) -> None:
    right, wrong = two_versions(filled)
    study = filled.one("SELECT study_uid FROM study")
    assert edge(filled, "prove", study).exit_code == 1
    path = filled.spool.path_of(filled.one("SELECT path FROM instance WHERE id = ?", wrong))
    digest = filled.one("SELECT lower(hex(sha256)) FROM instance WHERE id = ?", wrong)
    done = edge(filled, "instances", "discard", str(wrong), "--reason", "wrong patient")
    assert done.exit_code == 0
    assert states(filled, wrong) == {"archive": ("cancelled", "cancelled")}
    who, detail = filled_row(filled, "discarded")
    assert who
    assert detail == f"wrong patient; sha256 {digest}"
    proved = edge(filled, "prove", study)
    assert proved.exit_code == 0, proved.stdout
    assert digest in proved.stdout
    assert edge(filled, "queue", "retry", "--all").exit_code == 0
    assert states(filled, wrong) == {"archive": ("cancelled", "cancelled")}
    clock = [time.time()]
    retention = Retention(filled.db, filled.spool, lambda: filled.config, lambda: Disk(100, 99), clock=lambda: clock[0])
    clock[0] += 30 * 86_400 - 60
    assert retention.delete_discarded() == 0
    assert path.exists()
    clock[0] += 120
    assert retention.delete_discarded() == 1
    assert not path.exists()
    assert filled_row(filled, "deleted")[1].endswith(digest)
    assert digest in edge(filled, "instances", "show", str(wrong)).stdout
    assert recovery.compare({}, {"x": catalog.FileState(wrong, InstanceState.DISCARDED, 1)}).lost == ()
    with filled.db.reading() as conn:
        assert list(integrity.check_rows(conn)) == []
    assert states(filled, right) == {"archive": ("confirmed", "")}


def filled_row(filled: Filled, event: str) -> tuple[str, str]:
    with filled.db.reading() as conn:
        sql = "SELECT who, words(event, detail, payload) FROM ledger WHERE event = ? ORDER BY seq DESC"
        row = with_words(conn).execute(sql, (event,)).fetchone()
        return row[0], row[1]


def test_a_discard_is_taken_back_while_the_file_is_there(filled: Filled) -> None:
    _, wrong = two_versions(filled)
    edge(filled, "instances", "discard", str(wrong), *WHY)
    assert [each["id"] for each in listed(filled, "discarded")] == [wrong]
    assert edge(filled, "instances", "release", str(wrong), *WHY).exit_code == 0
    assert states(filled, wrong) == {"archive": ("pending", "")}


def listed(filled: Filled, state: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(edge(filled, "instances", "list", "--state", state, "--json").stdout)
    return found


@pytest.mark.parametrize("deleted", [False, True])
def test_what_was_discarded_and_comes_again_is_asked_about_again(filled: Filled, deleted: bool) -> None:
    _, wrong = two_versions(filled)
    blob = filled.spool.path_of(filled.one("SELECT path FROM instance WHERE id = ?", wrong)).read_bytes()
    edge(filled, "instances", "discard", str(wrong), *WHY)
    if deleted:
        filled.execute("UPDATE instance SET deleted_at = 1, size = 0 WHERE id = ?", wrong)
    assert filled.accept(blob).status == 0
    assert states(filled, wrong) == HELD
    assert [each["id"] for each in listed(filled, "conflict")] == [wrong]


def test_only_what_waits_for_a_decision_is_discarded(filled: Filled) -> None:
    filled.receive(2)
    done = edge(filled, "instances", "discard", "1", "99", *WHY)
    assert done.exit_code == 1
    assert "instance 1: nothing about it waits for a decision" in done.stdout
    assert "instance 99: there is no such instance" in done.stdout
    filled.execute("UPDATE instance SET state = 'conflict' WHERE id = 1")
    filled.db.write(lambda conn: leases.lease(conn, "archive", "node", NOW, 1, 1 << 40))
    assert "being sent to archive" in edge(filled, "instances", "discard", "1", *WHY).stdout
    assert states(filled, 1) == {"archive": ("active", "")}


def test_cancelled_work_is_closed_and_what_is_under_way_is_left(filled: Filled) -> None:
    filled.receive(3)
    filled.receive(1, Modality="OT")
    filled.db.write(lambda conn: leases.lease(conn, "archive", "node", NOW, 1, 1 << 40))
    done = edge(filled, "queue", "cancel", "--all", "--reason", "sent by CD")
    assert done.exit_code == 1
    assert "2 deliveries cancelled." in done.stdout
    assert "unroutable" in done.stdout
    assert [states(filled, n) for n in (1, 2, 3)] == [
        {"archive": ("active", "")},
        {"archive": ("cancelled", "cancelled")},
        {"archive": ("cancelled", "cancelled")},
    ]
    assert states(filled, 4) == {"": ("held", "unroutable")}
    assert edge(filled, "queue", "retry", "2").exit_code == 1
    assert filled_row(filled, "cancelled")[1] == "sent by CD"
    assert filled.one("SELECT open_deliveries FROM instance WHERE id = 2") == 0


# -- quarantine --------------------------------------------------------------------------------------------------------


def quarantined(filled: Filled, blob: bytes, uid: str = "1.2.3.4") -> int:
    """An object that came under another UID than its own."""
    kind, origin = (
        ContextKey("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"),
        Origin("CT1", "EDGE", "10.10.4.21", NOW),
    )
    assert take_in(filled.intake, kind, uid, origin, blob).status == 0xC000
    return int(filled.one("SELECT id FROM instance WHERE state = 'quarantined' ORDER BY id DESC"))


def test_out_of_quarantine_it_is_sent_as_it_is_under_the_uids_of_its_data_set(filled: Filled) -> None:
    (path,) = ct_files(filled.tmp_path / "ct", 1, 1024)
    number = quarantined(filled, dataset(path))
    shown = edge(filled, "instances", "show", str(number)).stdout
    assert "Test^Patient" in shown
    assert filled.one("SELECT count(*) FROM ledger WHERE event = 'viewed' AND instances = ?", f"[{number}]") == 1
    done = edge(filled, "instances", "release", str(number), *WHY)
    assert done.exit_code == 0, done.output
    assert "out of quarantine, as instance 2: archive: pending" in done.stdout
    (work,) = filled.db.write(lambda conn: leases.lease(conn, "archive", "node", NOW, 10, 1 << 40))
    assert work.sop_instance_uid == sop_instance_uid(path)
    assert work.calling_ae == "CT1"
    kept = filled.spool.path_of(work.path)
    assert dataset(kept) == dataset(path)
    assert sop_instance_uid(kept) == sop_instance_uid(path)
    assert listed(filled, "quarantined") == []
    with filled.db.reading() as conn:
        assert list(integrity.check_rows(conn)) == []
        row = kept_files.file_row(conn, work.instance_id)
        assert row is not None
        assert verify.check_file(kept, row, verify.writing_versions(conn)) is None
    assert len(list((filled.data_dir / "spool").rglob("*.dcm"))) == 1
    # The scanner was answered that it failed, and sends it again: it is that one, and no alert.
    origin = Origin("CT1", "EDGE", "10.10.4.21", NOW + 9)
    take_in(filled.intake, work.context_key, "1.2.3.4", origin, dataset(path))
    assert listed(filled, "quarantined") == []


def test_out_of_quarantine_it_may_be_a_conflict_which_is_another_decision(filled: Filled) -> None:
    (path,) = ct_files(filled.tmp_path / "ct", 1, 1024)
    filled.accept(path.read_bytes())
    filled.settle("archive", 1)
    other = pydicom.dcmread(path)
    other.PatientID = "P0002"
    number = quarantined(filled, dataset(part10(other)))
    done = edge(filled, "instances", "release", str(number), *WHY)
    assert "archive: held (conflict)" in done.stdout
    assert states(filled, int(filled.one("SELECT max(id) FROM instance"))) == HELD


def test_what_cannot_be_read_can_only_be_exported_or_discarded(filled: Filled) -> None:
    number = quarantined(filled, b"no data set at all" * 20)
    done = edge(filled, "instances", "release", str(number), *WHY)
    assert done.exit_code == 1
    assert f"only be exported or discarded (`edge instances export {number} DIR`" in done.stdout
    assert "6e 6f 20 64" in edge(filled, "instances", "show", str(number)).stdout
    out = filled.tmp_path / "out"
    assert edge(filled, "instances", "export", str(number), str(out)).exit_code == 0
    (copy,) = out.iterdir()
    assert dataset(copy) == b"no data set at all" * 20
    assert copy.stat().st_mode & 0o777 == 0o600
    again = edge(filled, "instances", "export", str(number), str(out))
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert filled_row(filled, "exported")[1].startswith(f"to {copy}")
    assert edge(filled, "instances", "discard", str(number), *WHY).exit_code == 0
    assert listed(filled, "quarantined") == []


def test_the_running_gateway_asks_for_a_reason_whoever_asks(filled: Filled) -> None:
    _, wrong = two_versions(filled)
    releaser = Releaser(filled.db, filled.spool, filled.intake)
    told: dict[str, Any] = {"ids": [wrong], "who": "anna", "reason": " "}
    for change in ("queue-release", "queue-cancel"):
        with pytest.raises(EdgeError, match="say why"):
            CHANGES[change](filled.db, told)
    for decide in RELEASER_DECISIONS.values():
        with pytest.raises(EdgeError, match="say why"):
            decide(releaser, told)
    assert states(filled, wrong) == HELD
    told = {"ids": [wrong], "who": "anna", "reason": "all of the line"}  # not named: one of many
    assert not RELEASER_DECISIONS["instance-release"](releaser, told)["decided"][0]["done"]
    assert states(filled, wrong) == HELD


def test_a_decision_survives_a_recovery_of_the_catalog(filled: Filled) -> None:
    right, wrong = two_versions(filled)
    edge(filled, "instances", "discard", str(wrong), *WHY)
    filled.receive(1)
    edge(filled, "queue", "cancel", str(filled.one("SELECT max(id) FROM delivery")), *WHY)
    with filled.db.reading() as conn:
        Journal(filled.data_dir).write(conn)
    filled.db.close()
    done = edge(filled, "recover", "--yes")
    if done.exit_code == 2:
        done = edge(filled, "recover")
    assert done.exit_code == 0, done.output
    filled.db = Store(filled.data_dir / "catalog.db")
    assert filled.one("SELECT state FROM instance WHERE id = ?", wrong) == "discarded"
    assert states(filled, wrong)["archive"][0] == "cancelled"
    assert states(filled, 3)["archive"][0] == "cancelled"
    assert states(filled, right)["archive"][0] == "confirmed"
