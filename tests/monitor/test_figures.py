"""Figures without patients: what senders state, lossless or not, how soon proof comes, whether dose reports come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset

from edge.cli import cli
from edge.console import study_dose
from edge.dicom import dose
from edge.dicom.uids import name_of
from edge.model import Origin
from edge.monitor import figures, health, heartbeat
from edge.monitor.live import Live
from edge.monitor.snapshot_model import Snapshot
from edge.monitor.status_document import status_json
from edge.spool.room import disk_of
from edge.storage.backfill import Backfill
from edge.store import figures as stored
from edge.store.callers import MODALITY_WORKLIST, Calls, remember_peer
from tests.support.filled import CONFIG, Filled
from tests.support.objects import new_uid, part10
from tests.support.schemas import validator

HOUR, DAY = 3600.0, 86400.0
RDSR = "1.2.840.10008.5.1.4.1.1.88.67"


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path, CONFIG + "[quality]\npatient_id = '[0-9]{10}'\n") as made:
        yield made


def count(filled: Filled, at: float | None = None) -> Snapshot:
    """What housekeeping does in a minute, then the status."""
    while Backfill(filled.db, filled.intake).step():
        pass
    now = at or time.time()
    filled.db.write(lambda conn: figures.count_arrivals(conn, filled.config.quality))
    filled.db.write(lambda conn: figures.measure_studies(conn, filled.config, now, 2 * HOUR))
    with filled.db.reading() as conn:
        return health.snapshot(conn, filled.config, disk_of(filled.data_dir), Live("running"), now)


def test_shares_of_what_objects_state(filled: Filled) -> None:
    filled.receive(1, PatientID="1234567890", ReferringPhysicianName="Doe^J", StudyDescription="Chest")
    filled.receive(2, PatientID="A1", AccessionNumber="")
    filled.receive(1, SOPClassUID="1.3.46.670589.11.0.0.12.1")
    seen = count(filled)
    (found,) = seen.figures
    assert (found.ae_title, found.objects, found.studies) == ("CT1", 4, 3)
    assert (found.patient_id_share, found.accession_share, found.description_share) == (0.25, 0.5, 0.25)
    assert (found.referring_physician_share, found.private_share, found.lossy_share) == (0.25, 0.25, 0.0)
    assert not found.asks_worklist
    assert count(filled).figures == seen.figures  # nothing is counted twice


def test_a_modality_that_has_asked_for_the_worklist_by_any_title_of_its_address(filled: Filled) -> None:
    offer = ((MODALITY_WORKLIST, ("1.2.840.10008.1.2",)),)
    filled.receive(1)
    for title, contexts in (("CT1", ()), ("CT1_WL", offer)):
        calls = Calls("ct1", 1.0, 2.0, 1, 2.0, contexts=contexts)
        filled.db.write(lambda conn, t=title, c=calls: remember_peer(conn, t, "10.10.4.21", c))
    assert count(filled).figures[0].asks_worklist


def test_the_time_from_the_first_object_to_the_proof(filled: Filled) -> None:
    now = time.time()
    for seconds in (30.0, 90.0):
        filled.receive(2)
        filled.settle("archive", 2)
        filled.execute(
            "UPDATE instance SET received_at = ?1, confirmed_at = ?1 + ?2 WHERE study_id = (SELECT max(id) FROM study)",
            now - 300,
            seconds,
        )
    filled.receive(1)  # not proved: not measured
    filled.execute("UPDATE study SET last_received = ?", now - 130)
    (found,) = count(filled, now).figures
    assert (found.studies, found.slow_share, found.proof_median_seconds) == (3, 0.5, pytest.approx(60.0))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"Modality": "US", "LossyImageCompression": "01"}, ["US1"]),
        ({"Modality": "ES", "LossyImageCompression": "01"}, []),
        ({"Modality": "XC", "LossyImageCompression": "01"}, []),
        ({"Modality": "US", "LossyImageCompression": "00"}, []),
    ],
)
def test_lossy_images_are_an_alert_but_for_what_is_allowed(
    filled: Filled, attributes: dict[str, str], expected: list[str]
) -> None:
    filled.receive(1, Origin("US1", "EDGE", "10.0.0.2", time.time()), **attributes)
    seen = count(filled)
    assert [each.subject for each in seen.alerts if each.kind == "lossy-received"] == expected
    assert seen.figures[0].lossy_share == float(attributes["LossyImageCompression"] == "01")


def test_what_was_evicted_unread_is_not_counted(filled: Filled) -> None:
    filled.receive(2)
    filled.db.write(lambda conn: conn.execute("UPDATE instance SET state = 'evicted', series_id = NULL WHERE id = 1"))
    (found,) = count(filled).figures
    assert found.objects == 1


def test_transfer_syntaxes_that_are_lossy_whatever_the_object_says() -> None:
    lossy = {uid for uid in pydicom.uid.UID_dictionary if figures.is_lossy(uid, "")}
    for uid in lossy:
        assert "Lossless" not in name_of(uid) or "Near" in name_of(uid), name_of(uid)
    known = {"JPEG Baseline", "MPEG2", "JPEG-LS Lossy", "HEVC"}
    assert all(any(word in name_of(uid) for uid in lossy) for word in known)


def test_a_missing_dose_report_is_an_alert_until_it_comes(filled: Filled) -> None:
    now = time.time()
    uid = filled.receive(1, Modality="CT")
    filled.receive(1, Modality="US")
    filled.execute("UPDATE study SET last_received = ?", now - 2 * HOUR + 60)
    assert not [each for each in count(filled, now).alerts if each.kind == "dose-report-missing"]
    filled.execute("UPDATE study SET last_received = ?", now - 2 * HOUR - 60)
    seen = count(filled, now)
    (alert,) = [each for each in seen.alerts if each.kind == "dose-report-missing"]
    assert (alert.subject, seen.figures[0].dose_missing) == ("CT1", 1)
    filled.receive(1, StudyInstanceUID=uid, Modality="SR", SOPClassUID=RDSR)
    seen = count(filled, now)
    assert not [each for each in seen.alerts if each.kind == "dose-report-missing"]
    assert seen.figures[0].dose_missing == 0


@pytest.mark.parametrize(
    ("sop_class", "title", "is_report"),
    [
        (RDSR, "", True),
        ("1.2.840.10008.5.1.4.1.1.88.76", "", True),
        ("1.2.840.10008.5.1.4.1.1.88.22", "X-Ray Radiation Dose Report", True),
        ("1.2.840.10008.5.1.4.1.1.88.22", "Imaging Report", False),
        ("1.2.840.10008.5.1.4.1.1.2", "X-Ray Radiation Dose Report", False),
    ],
)
def test_what_is_a_dose_report(sop_class: str, title: str, is_report: bool) -> None:
    assert figures.is_dose_report(sop_class, title) == is_report


def _item(code: str, **values: object) -> Dataset:
    made, name = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = code, "DCM", "x"
    made.ConceptNameCodeSequence = [name]
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def report(events: dict[str, float], study: str) -> Dataset:
    """A dose report of CT acquisitions (PS3.16 TID 10013) with their dose length products."""
    made = _item("113701")
    made.SOPClassUID, made.SOPInstanceUID, made.StudyInstanceUID = RDSR, new_uid(), study
    made.SeriesInstanceUID, made.Modality, made.PatientID, made.PatientName = new_uid(), "SR", "P0001", "Test^Patient"
    made.PatientBirthDate, made.PatientSex = "19700101", "O"
    acquisitions = []
    for uid, value in events.items():
        unit, measured = Dataset(), Dataset()
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mGy.cm", "UCUM", "mGy.cm"
        measured.NumericValue, measured.MeasurementUnitsCodeSequence = str(value), [unit]
        product = _item("113838", ValueType="NUM", MeasuredValueSequence=[measured])
        acquisitions.append(
            _item("113819", ContentSequence=[_item("113769", UID=uid), _item("113829", ContentSequence=[product])])
        )
    made.ContentSequence = acquisitions
    return made


def test_events_of_several_reports_are_counted_once(filled: Filled) -> None:
    uid = filled.receive(1)
    for events in ({"1.2.1": 100.0, "1.2.2": 50.0}, {"1.2.1": 100.0, "1.2.3": 7.5}):
        filled.accept(part10(report(events, uid)))
    count(filled)
    with filled.db.reading() as conn:
        paths = [filled.spool.path_of(each) for each in figures.dose_reports_of(conn, 1)]
    shown = study_dose.read_study_dose(paths)
    assert (shown.reports, shown.unread, shown.events) == (2, 0, 3)
    assert shown.sums == {"dose_length_product": (157.5, "mGy.cm")}
    filled.db.close()
    done = CliRunner().invoke(cli, ["--config", str(filled.directory), "studies", "dose", uid, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["reports"] == 2
    assert [each["uid"] for each in found["events"]] == ["1.2.1", "1.2.2", "1.2.3"]
    assert found["sums"]["dose_length_product"] == [157.5, "mGy.cm"]


def _coded(code: str, value: str) -> Dataset:
    made, coded = _item(code, ValueType="CODE"), Dataset()
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = value, "SCT", "x"
    made.ConceptCodeSequence = [coded]
    return made


def _exposure(uid: str, value: str, *located: Dataset) -> Dataset:
    """An irradiation event of mammography (PS3.16 TID 10003): its average glandular dose, and where it went."""
    unit, measured = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mGy", "UCUM", "mGy"
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = value, [unit]
    dose_item = _item("111631", ValueType="NUM", MeasuredValueSequence=[measured])
    return _item("113706", ContentSequence=[_item("113769", UID=uid), *located, dose_item])


def test_the_doses_of_two_breasts_are_not_added_up() -> None:
    breast = _coded("123014", "76752008")
    breast.ContentSequence = [_coded("272741003", "24028007")]
    whole = Dataset()
    whole.ContentSequence = [
        _exposure("1.2.1", "1.5", breast),
        _exposure("1.2.2", "1.25", breast),
        _exposure("1.2.3", "2", _coded("G-C171", "G-A101")),
        _exposure("1.2.4", "9"),
    ]
    sums = dose.sum_measures(dose.list_events(whole))
    assert sums == {
        "average_glandular_dose_right": (2.75, "mGy"),
        "average_glandular_dose_left": (2.0, "mGy"),
        "average_glandular_dose": (9.0, "mGy"),
    }
    stated = study_dose.StudyDose(1, sums=sums).readings
    assert stated[:2] == [("AGD right", 2.75, "mGy"), ("AGD left", 2.0, "mGy")]


def test_a_page_reads_few_small_reports_and_stumbles_over_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = report({"1.2.1": 1.0}, "1.2.3")
    empty.ContentSequence[0].ContentSequence[1].ContentSequence[0].MeasuredValueSequence[0].NumericValue = None
    paths = [tmp_path / name for name in ("good", "empty", "damaged", "gone")]
    for path, blob in zip(paths, (part10(report({"1.2.2": 5.0}, "1.2.3")), part10(empty), b"DICM"), strict=False):
        path.write_bytes(blob)
    shown = study_dose.read_study_dose(paths)
    assert (shown.reports, shown.unread, shown.events) == (4, 3, 1)
    assert study_dose.read_study_dose(paths[:1] * 9).unread == 9
    monkeypatch.setattr(study_dose, "MOST_PAGE_BYTES", 100)
    study_dose._read_report.cache_clear()
    assert study_dose.read_study_dose(paths[:1]).unread == 1


def test_a_report_without_events_has_none() -> None:
    assert list(dose.list_events(Dataset())) == []


def test_status_heartbeat_and_command_have_them_and_no_patient(filled: Filled) -> None:
    filled.receive(1, PatientID="1234567890")
    status = status_json(count(filled))
    (found,) = status["figures"]
    assert found["patient_id_share"] == 1.0
    picked = heartbeat.pick({"status": status}, heartbeat.schema())
    assert picked["status"]["figures"] == [found]
    definitions = heartbeat.schema()["$defs"]
    validator().evolve(schema={**definitions["status"], "$defs": definitions}).validate(picked["status"])
    assert "1234567890" not in json.dumps(picked)
    filled.db.close()
    done = CliRunner().invoke(cli, ["--config", str(filled.directory), "figures"])
    assert done.exit_code == 0
    assert "100 %" in done.stdout


def test_old_figures_go(filled: Filled) -> None:
    filled.receive(1)
    count(filled)
    filled.db.write(lambda conn: stored.forget_old_figures(conn, time.time() + 2 * DAY))
    assert filled.one("SELECT count(*) FROM measured_study") == filled.one("SELECT count(*) FROM daily_figure") == 0
