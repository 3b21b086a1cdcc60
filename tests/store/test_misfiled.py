"""Two patients under one Study Instance UID: both are found, nothing goes out unseen, and everybody is told."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge.cli import cli
from edge.intake.policy import Policy
from edge.model import Disk
from edge.monitor import health
from edge.monitor.live import Live
from edge.storage.rebuild import recover
from edge.storage.release import Releaser
from edge.store import ledger, operator_actions
from edge.store.database import Transaction
from edge.store.ledger_copy import Journal
from tests.support.filled import CONFIG, Filled
from tests.support.objects import ct_files, new_uid

ALICE = {"PatientID": "PATA", "PatientName": "Doe^Alice", "PatientBirthDate": "19700101"}
BOB = {"PatientID": "PATB", "PatientName": "Roe^Bob", "PatientBirthDate": "19820202"}
CARL = {"PatientID": "PATC", "PatientName": "Poe^Carl", "PatientBirthDate": "19910303"}


class Clinic(Filled):
    """Sends single images of a study that the test names."""

    def image(self, study: str, patient: dict[str, str], **attributes: Any) -> bytes:
        self._made += 1
        given = {"StudyInstanceUID": study, **patient, **attributes}
        (path,) = ct_files(self.tmp_path / f"image{self._made}", 1, 1024, **given)
        return path.read_bytes()

    def send(self, study: str, patient: dict[str, str], **attributes: Any) -> int:
        """One image; its instance number in the catalog."""
        assert self.accept(self.image(study, patient, **attributes)).status == 0
        return int(self.one("SELECT max(id) FROM instance"))

    def states(self, destination: str = "archive") -> list[tuple[str, str]]:
        """(state, reason code) of each delivery to a destination, in the order of arrival."""
        sql = "SELECT state, reason_code FROM delivery WHERE destination = ? ORDER BY instance_id"
        with self.db.reading() as conn:
            return [tuple(row) for row in conn.execute(sql, (destination,))]

    def alert(self) -> Any:
        """The alert about patients that differ, or None."""
        with self.db.reading() as conn:
            seen = health.snapshot(conn, self.config, Disk(100, 50), Live("running"), time.time())
        return next((each for each in seen.alerts if each.kind == "patient-mismatch"), None)

    def command(self, *args: str, code: int = 0) -> Any:
        done = CliRunner().invoke(cli, [*args, "--json", "--config", str(self.directory)])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def text(self, *args: str) -> str:
        return CliRunner().invoke(cli, [*args, "--config", str(self.directory)]).stdout


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    with Clinic(tmp_path) as made:
        yield made


@pytest.fixture
def mixed(clinic: Clinic) -> str:
    """A study of which the first image is Alice's, the second Bob's."""
    study = new_uid()
    clinic.send(study, ALICE)
    clinic.send(study, BOB, StudyDescription="SECOND", AccessionNumber="B7", Modality="MR")
    return study


def test_the_later_patients_image_is_held_with_a_code(clinic: Clinic, mixed: str) -> None:
    assert clinic.states() == [("pending", ""), ("held", "mismatch")]


@pytest.mark.parametrize("text", ["PATA", "PATB", "Roe^Bob", "doe^alice", "SECOND", "B7"])
def test_both_patients_find_the_study(clinic: Clinic, mixed: str, text: str) -> None:
    (found,) = clinic.command("studies", "list", "--search", text)
    assert found["study_uid"] == mixed
    assert [each["patient_id"] for each in found["patients"]] == ["PATA", "PATB"]


def test_the_breach_report_names_the_study_for_both_and_each_line_its_own_patient(clinic: Clinic, mixed: str) -> None:
    for patient in ("PATA", "PATB"):
        lines = clinic.command("audit", "report", "--patient", patient)
        assert {each["study_uid"] for each in lines} == {mixed}
        received = [each for each in lines if each["what"] == "received"]
        assert [(each["images"], each["patient_id"]) for each in received] == [(1, patient)]


def test_a_patient_is_not_shown_in_the_others_report(clinic: Clinic, mixed: str) -> None:
    assert "PATA" not in json.dumps(clinic.command("audit", "report", "--patient", "PATB"))


def test_the_audit_trail_names_each_images_own_patient_and_accession(clinic: Clinic, mixed: str) -> None:
    from edge.messaging.audit import rows

    with clinic.db.reading() as conn:
        groups = [each for each in rows.neighbours(rows.read_ledger(conn, 0, 100)) if each[0].event == ledger.RECEIVED]
        told = [rows.look_up(conn, group) for group in groups]
    assert [(facts.patients[0].patient_id, facts.accession) for facts in told] == [("PATA", "A0001"), ("PATB", "B7")]
    assert [len(facts.patients) for facts in told] == [1, 1]


def test_a_dry_run_of_routes_asks_what_each_series_says(clinic: Clinic, mixed: str) -> None:
    from edge.store import queries

    with clinic.db.reading() as conn:
        found = [known for _, _, _, known in queries.series_since(conn, 0.0, 10)]
    said = [(each["PatientID"], each["Modality"], each["StudyDescription"]) for each in found]
    assert said == [("PATB", "MR", "SECOND"), ("PATA", "CT", "")]


def test_the_alert_has_no_patient_and_ends_with_the_decision(clinic: Clinic, mixed: str) -> None:
    alert = clinic.alert()
    assert alert is not None
    told = alert.text + alert.subject
    assert not any(word in told for word in ("PATA", "PATB", "Doe", "Roe", mixed))
    assert "edge instances list --state mismatch" in alert.do
    release(clinic, 2)
    assert clinic.alert() is None


def release(clinic: Clinic, instance: int) -> None:
    def work(conn: Transaction) -> int:
        sql = "SELECT id FROM delivery WHERE instance_id = ? AND state = 'held'"
        held = [row[0] for row in conn.execute(sql, (instance,))]
        return operator_actions.release(conn, held, 9.0, "anna", "it is his", named=True).count

    assert clinic.db.write(work)


def test_the_studys_page_and_prove_say_it(clinic: Clinic, mixed: str) -> None:
    shown = clinic.command("studies", "show", mixed)
    assert [each["standing"] for each in shown["patients"]] == ["agrees", "differs"]
    assert [each["images"] for each in shown["patients"]] == [1, 1]
    text = clinic.text("studies", "show", mixed)
    assert "PATA" in text
    assert "PATB" in text
    proof = clinic.command("prove", mixed, code=1)
    assert proof["patients"] == 2
    assert "2 patients" in clinic.text("prove", mixed)


def test_the_list_of_mismatches_names_both(clinic: Clinic, mixed: str) -> None:
    (found,) = clinic.command("instances", "list", "--state", "mismatch")
    assert (found["patient"]["patient_id"], found["study_patient"]["patient_id"]) == ("PATB", "PATA")
    assert found["differs_in"] == ["id", "name", "birth-date"]
    assert "PATB" in clinic.text("instances", "list")


def test_an_image_that_a_person_has_released_lets_the_next_of_its_patient_pass(clinic: Clinic, mixed: str) -> None:
    clinic.send(mixed, BOB)
    assert clinic.states()[2] == ("held", "mismatch"), "the first is not decided yet"
    release(clinic, 2)
    clinic.send(mixed, BOB)
    clinic.send(mixed, CARL)
    clinic.send(mixed, ALICE)
    assert [state for state, _ in clinic.states()] == ["pending", "pending", "held", "pending", "held", "pending"]
    other = new_uid()
    clinic.send(other, ALICE)
    clinic.send(other, BOB)
    assert clinic.states()[-1] == ("held", "mismatch"), "accepted for that study alone"


def test_forwarded_where_the_site_says_so_and_alarmed_all_the_same(tmp_path: Path) -> None:
    with Clinic(tmp_path, CONFIG + '[identity]\nmismatch = "forward"\n') as clinic:
        study = new_uid()
        clinic.send(study, ALICE)
        clinic.send(study, BOB)
        assert clinic.states() == [("pending", ""), ("pending", "")]
        assert clinic.alert() is not None
        assert len(clinic.command("instances", "list", "--state", "mismatch")) == 1


def test_what_is_not_held_is_settled_by_an_acknowledgement_and_a_third_patient_is_news(tmp_path: Path) -> None:
    from edge.monitor.engine import AlertEngine, acknowledge_alert

    with Clinic(tmp_path, CONFIG + '[identity]\nmismatch = "forward"\n') as clinic:
        study = new_uid()
        for patient in (ALICE, BOB):
            clinic.send(study, patient)

        def seen() -> Any:
            with clinic.db.reading() as conn:
                return health.snapshot(conn, clinic.config, Disk(100, 50), Live("running"), time.time())

        AlertEngine(clinic.db, lambda: clinic.config, seen).evaluate()
        number = clinic.alert().id
        assert number is not None
        clinic.db.write(lambda conn: acknowledge_alert(conn, number, "anna", "corrected at the archive", 9.0))
        assert clinic.alert() is None
        assert clinic.one("SELECT instances FROM ledger WHERE event = 'settled'") == "[2]"
        clinic.send(study, BOB)
        assert clinic.alert() is None, "somebody knows of this patient in this study"
        clinic.send(study, CARL)
        assert clinic.alert() is not None


@pytest.mark.parametrize(("line", "state"), [("", "pending"), ("hold_stat = true\n", "held")])
def test_a_stat_image_is_forwarded_and_alarmed(tmp_path: Path, line: str, state: str) -> None:
    with Clinic(tmp_path, CONFIG + f"[identity]\n{line}") as clinic:
        study = new_uid()
        clinic.send(study, ALICE, StudyDescription="ACUTE STROKE")
        clinic.send(study, BOB, StudyDescription="ACUTE STROKE")
        assert [clinic.states(name)[1][0] for name in ("archive", "teleread")] == [state, state]
        assert clinic.alert() is not None


def test_a_conflict_that_is_also_a_mismatch_is_both(clinic: Clinic) -> None:
    study = new_uid()
    blob = clinic.image(study, ALICE)
    clinic.accept(blob)
    clinic.accept(blob.replace(b"PATA", b"PATB").replace(b"Doe^Alice", b"Roe^Alice"))
    assert clinic.states()[1][0] == "held"
    assert clinic.one("SELECT state FROM instance WHERE id = 2") == "conflict"
    assert clinic.alert() is not None
    assert [each["state"] for each in clinic.command("instances", "list", "--state", "conflict")] == ["conflict"]
    assert len(clinic.command("instances", "list", "--state", "mismatch")) == 1


def test_a_duplicate_changes_nothing(clinic: Clinic, mixed: str) -> None:
    blob = clinic.image(mixed, BOB)
    for _ in range(2):
        clinic.accept(blob)
    assert clinic.states() == [("pending", ""), ("held", "mismatch"), ("held", "mismatch")]


def test_what_a_route_finds_later_is_held_too(tmp_path: Path) -> None:
    with Clinic(tmp_path) as clinic:
        study = new_uid()
        clinic.send(study, ALICE)
        instance = clinic.send(study, BOB, Modality="OT")
        assert clinic.alert() is not None
        clinic.intake.policy = Policy.from_config(
            load_with(clinic, CONFIG.replace('when = { Modality = { not = "OT" } }', ""))
        )
        releaser = Releaser(clinic.db, clinic.spool, clinic.intake)
        assert not releaser.release(instance, "anna", "there is a route now", named=False).done
        assert clinic.states() == [("pending", ""), ("held", "mismatch")]


def load_with(clinic: Clinic, text: str) -> Any:
    from edge.config import load_config

    (clinic.directory / "site.toml").write_text(text)
    return load_config(clinic.directory)


@pytest.mark.parametrize("image_at", [0, 1, 2])
def test_another_patients_report_waits_where_the_studys_images_go(tmp_path: Path, image_at: int) -> None:
    from tests.store.test_companions import companion, ct

    with Clinic(tmp_path, CONFIG.replace('{ not = "OT" }', '"CT"')) as clinic:
        study = new_uid()
        objects = [companion("report", study, **ALICE), companion("report", study, **BOB)]
        objects.insert(image_at, ct(study, **ALICE))
        for each in objects:
            clinic.accept(each)
        waits = ["pending"] * 3
        waits[1 if image_at == 2 else 2] = "held"
        assert [state for state, _ in clinic.states()] == waits
        assert clinic.one("SELECT count(*) FROM delivery WHERE destination = ''") == 0


def test_an_image_that_waits_leads_no_reports(tmp_path: Path) -> None:
    from tests.store.test_companions import companion, ct

    route = '[route.mr]\nto = ["teleread"]\nwhen = { Modality = "MR" }\n'
    with Clinic(tmp_path, CONFIG.replace('{ not = "OT" }', '"CT"') + route) as clinic:
        study = new_uid()
        for each in (ct(study, **ALICE), companion("report", study, **ALICE)):
            clinic.accept(each)
        clinic.send(study, BOB, Modality="MR")
        assert clinic.states() == [("pending", ""), ("pending", "")]
        assert clinic.states("teleread") == [("held", "mismatch")]


def test_of_concurrent_arrivals_one_is_first(clinic: Clinic) -> None:
    for _ in range(5):
        study = new_uid()
        blobs = [clinic.image(study, patient) for patient in (ALICE, BOB) for _ in range(4)]
        threads = [threading.Thread(target=clinic.accept, args=(blob,)) for blob in blobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    states = [state for state, _ in clinic.states()]
    assert (states.count("pending"), states.count("held")) == (20, 20)


def test_objects_without_a_patient_or_a_study_take_no_part(clinic: Clinic) -> None:
    study = new_uid()
    clinic.send(study, {"PatientID": "", "PatientName": "", "PatientBirthDate": ""})
    clinic.send(study, ALICE)
    clinic.send(study, {"PatientID": "", "PatientName": "", "PatientBirthDate": ""})
    clinic.send("", ALICE)
    clinic.send("", BOB)
    assert {state for state, _ in clinic.states()} == {"pending"}


def test_a_rule_about_a_nested_issuer_does_not_make_another_patient(tmp_path: Path) -> None:
    """An issuer inside Other Patient IDs Sequence is not the patient's own."""
    from pydicom import Dataset

    rule = '[route.army]\nto = ["teleread"]\nwhen = { IssuerOfPatientID = "USDOD" }\n'
    with Clinic(tmp_path, CONFIG + rule) as clinic:
        study = new_uid()
        for number in ("A", "B"):
            other = Dataset()
            other.PatientID, other.IssuerOfPatientID = number, number
            clinic.send(study, ALICE, OtherPatientIDsSequence=[other])
        assert {state for state, _ in clinic.states()} == {"pending"}


FACTS = (
    "SELECT i.id, p.patient_id, p.name, p.birth_date, f.accession, f.description, r.modality, i.instance_number,"
    " w.standing FROM instance i JOIN series r ON r.id = i.series_id JOIN study_facts f ON f.id = r.study_facts_id"
    " JOIN patient p ON p.id = f.patient_key JOIN study_patient w ON w.study_id = f.study_id"
    " AND w.patient_key = p.id ORDER BY i.id"
)


def facts_in(data_dir: Path) -> list[Any]:
    with closing(sqlite3.connect(data_dir / "catalog.db")) as conn:
        return conn.execute(FACTS).fetchall()


@pytest.mark.parametrize("left", ["catalog", "journal", "files"])
def test_a_rebuilt_catalog_knows_whose_every_image_is(clinic: Clinic, mixed: str, left: str) -> None:
    clinic.send(mixed, CARL)
    clinic.send(mixed, CARL)
    release(clinic, 3)  # and not the other of Carl's
    clinic.db.checkpoint()
    with clinic.db.reading() as conn:
        Journal(clinic.data_dir).write(conn)
    before, states = facts_in(clinic.data_dir), clinic.states()
    assert [row[-1] for row in before] == ["agrees", "differs", "accepted", "accepted"]
    assert [state for state, _ in states] == ["pending", "held", "pending", "held"]
    clinic.close()
    if left != "catalog":
        (clinic.data_dir / "catalog.db").unlink()
    if left == "files":
        for path in (clinic.data_dir / "journal").iterdir():
            path.unlink()
    recover(clinic.data_dir, Policy.from_config(clinic.config), "anna")
    again = Clinic(clinic.tmp_path)
    if left == "files":  # nobody remembers the decision: it is asked for again
        assert sorted(row[1:6] for row in facts_in(again.data_dir)) == sorted(row[1:6] for row in before)
        rows = facts_in(again.data_dir)
        with again.db.reading() as conn:
            held = {row[0] for row in conn.execute("SELECT instance_id FROM delivery WHERE state = 'held'")}
        assert len({row[1] for row in rows if row[0] not in held}) == 1, "which came first is not known: one of them"
    else:
        assert (facts_in(again.data_dir), again.states()) == (before, states)
    again.close()


def test_an_evicted_images_patient_is_still_known_from_the_journal(clinic: Clinic, mixed: str) -> None:
    with clinic.db.reading() as conn:
        Journal(clinic.data_dir).write(conn)
    path = str(clinic.one("SELECT path FROM instance WHERE id = 2"))
    clinic.close()
    (clinic.data_dir / "catalog.db").unlink()
    clinic.spool.path_of(path).unlink()
    recover(clinic.data_dir, Policy.from_config(clinic.config), "anna")
    with closing(sqlite3.connect(clinic.data_dir / "catalog.db")) as conn:
        assert conn.execute("SELECT state FROM instance WHERE id = 2").fetchone() == ("lost",)
    assert [row[1] for row in facts_in(clinic.data_dir)] == ["PATA", "PATB"]


# -- what it costs, and what a rollback leaves ------------------------------------------------------------------------


def test_the_next_slice_of_a_series_looks_nothing_up(clinic: Clinic) -> None:
    study, series = new_uid(), new_uid()
    clinic.send(study, ALICE, SeriesInstanceUID=series)
    statements: list[str] = []
    clinic.db._writer.set_trace_callback(statements.append)
    clinic.send(study, ALICE, SeriesInstanceUID=series)
    clinic.db._writer.set_trace_callback(None)
    assert statements
    assert not [each for each in statements if any(name in each for name in ("patient", "study_facts", " series "))]
    assert clinic.one("SELECT count(*) FROM series") == 1


def test_what_was_rolled_back_is_not_remembered(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.store import deliveries

    class Fault(Exception):
        pass

    def fails(*_: Any, **__: Any) -> None:
        raise Fault

    study = new_uid()
    blob = clinic.image(study, ALICE)
    with monkeypatch.context() as patched:
        patched.setattr(deliveries, "enqueue", fails)
        assert clinic.accept(blob).status == 0
        assert clinic.one("SELECT state FROM instance") == "quarantined"
    assert clinic.one("SELECT count(*) FROM patient") == 0
    clinic.send(new_uid(), BOB)  # takes the numbers that Alice's rows had
    clinic.accept(blob)
    assert [row[1] for row in facts_in(clinic.data_dir)] == ["PATA", "PATB"]  # the first instance, and the second


# -- on a real gateway ------------------------------------------------------------------------------------------------


def test_the_console_finds_it_for_both_and_nothing_reaches_the_archive_unseen(tmp_path: Path) -> None:
    from contextlib import ExitStack

    from tests.console.test_pages import Clinic as Gateway
    from tests.console.test_pages import csrf
    from tests.support.peers import wait_until

    with ExitStack() as stack:
        gateway = Gateway(tmp_path, stack)
        study = new_uid()
        for patient in (ALICE, BOB):
            gateway.send(1, StudyInstanceUID=study, **patient)
        wait_until(
            lambda: gateway.edge.api_status()["destinations"]["archive"]["confirmed"] == 6, 30, "Alice's is sent"
        )
        operator, viewer = gateway.person("operator"), gateway.person("viewer")
        for patient in ("PATA", "PATB"):
            given = {"csrf": csrf(operator, "/studies"), "patient_id": patient}
            page = operator.post("/studies/search", data=given).text
            assert f'href="/studies/{number_of(gateway, study)}"' in page
            assert "Roe Bob" in page
        page = operator.get(f"/studies/{number_of(gateway, study)}").text
        assert "images of 2 patients" in page
        assert "another ID, name and birth date" in page
        masked = viewer.get(f"/studies/{number_of(gateway, study)}").text
        assert "images of 2 patients" in masked
        assert not any(word in masked for word in ("PATA", "PATB", "Alice", "Bob", "1970"))
        uid = gateway_uid(gateway, study)
        assert uid in operator.get("/exceptions?kind=mismatch").text
        assert uid not in viewer.get("/exceptions?kind=mismatch").text
        status = gateway.edge.api_status()
        assert [(each["kind"], each["subject"]) for each in status["alerts"] if each["kind"] == "patient-mismatch"] == [
            ("patient-mismatch", "held")
        ]
        assert len(gateway.archive.files()) == 6


def gateway_uid(gateway: Any, study: str) -> str:
    """Of the last image of a study."""
    with closing(sqlite3.connect(gateway.edge.data_dir / "catalog.db")) as conn:
        sql = "SELECT i.sop_instance_uid FROM instance i JOIN study s ON s.id = i.study_id WHERE s.study_uid = ?"
        return str(conn.execute(sql + " ORDER BY i.id DESC", (study,)).fetchone()[0])


def number_of(gateway: Any, study: str) -> int:
    with closing(sqlite3.connect(gateway.edge.data_dir / "catalog.db")) as conn:
        return int(conn.execute("SELECT id FROM study WHERE study_uid = ?", (study,)).fetchone()[0])


# -- proof ------------------------------------------------------------------------------------------------------------


def two_versions(clinic: Clinic) -> str:
    study = new_uid()
    blob = clinic.image(study, ALICE)
    clinic.accept(blob)
    clinic.accept(blob.replace(b"19700101", b"19700102"))
    return study


def test_two_versions_of_one_image_are_one_image_and_never_both_proved(clinic: Clinic) -> None:
    study = two_versions(clinic)
    release(clinic, 2)
    clinic.settle("archive", 2)
    proof = clinic.command("prove", study, code=1)
    assert (proof["proved"], proof["images"]) == (False, 1)
    assert not any(each["destinations"]["archive"]["proved"] for each in proof["instances"])
    text = clinic.text("prove", study)
    assert "1 image" in text
    assert "2 images" not in text
    assert "2 versions" in text


def test_which_version_the_archive_can_have_is_said(clinic: Clinic) -> None:
    study = two_versions(clinic)
    clinic.settle("archive", 1)
    first, second = clinic.command("prove", study, code=1)["instances"]
    assert first["destinations"]["archive"]["proved"], "the other has never left"
    assert not second["destinations"]["archive"]["proved"]
    assert first["sha256"][:16] in clinic.text("prove", study)
    clinic.execute("UPDATE delivery SET state = 'cancelled', cancelled_at = 7.0 WHERE instance_id = 2")
    proof = clinic.command("prove", study)
    assert (proof["proved"], proof["images"]) == (True, 1)
