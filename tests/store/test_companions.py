"""Objects without an image of their own go where their study's images go, in whatever order they arrive."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner
from pydicom.uid import UID

from edge.cli import cli
from edge.config import load_config
from edge.intake.policy import Policy
from edge.intake.routing import IMAGELESS
from edge.monitor.config_warnings import warnings
from edge.storage.release import Releaser
from edge.store import companions, deliveries, ledger
from tests.support.filled import Filled
from tests.support.objects import new_uid, part10

HEAD = """
[site]
id = "0067"
data_dir = "../data"
[modality.any]
ae_title = "*"
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 104
[destination.reader]
ae_title = "READER"
host = "127.0.0.1"
port = 105
[destination.teaching]
ae_title = "TEACH"
host = "127.0.0.1"
port = 106
"""
CT_TO_ARCHIVE = '[route.ct]\nto = ["archive"]\nwhen = { Modality = "CT" }\n'
CT_TO_READER = '[route.read]\nto = ["reader"]\nwhen = { Modality = "CT" }\n'
EVERYTHING = '[route.everything]\nto = ["archive"]\n'

#: What follows: keyword of the SOP class, Modality.
KINDS = {
    "dose": ("XRayRadiationDoseSRStorage", "SR"),
    "key": ("KeyObjectSelectionDocumentStorage", "KO"),
    "marks": ("GrayscaleSoftcopyPresentationStateStorage", "PR"),
    "report": ("BasicTextSRStorage", "SR"),
    "pdf": ("EncapsulatedPDFStorage", "DOC"),
    "cda": ("EncapsulatedCDAStorage", "DOC"),
    "stl": ("EncapsulatedSTLStorage", "M3D"),
    "seg": ("SegmentationStorage", "SEG"),
    "struct": ("RTStructureSetStorage", "RTSTRUCT"),
    "ecg": ("TwelveLeadECGWaveformStorage", "ECG"),
}


def made(sop_class: str, modality: str, study: str, uid: str = "", **attributes: Any) -> bytes:
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = UID(getattr(pydicom.uid, sop_class, sop_class)), uid or new_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = study, new_uid(), modality
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P1", "Test^Patient", "19700101", "O"
    ds.StudyDate, ds.AccessionNumber = "20260102", "A1"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return part10(ds)


def ct(study: str, uid: str = "", **attributes: Any) -> bytes:
    return made("CTImageStorage", "CT", study, uid, **attributes)


def companion(kind: str, study: str, **attributes: Any) -> bytes:
    return made(*KINDS[kind], study, **attributes)


class Site(Filled):
    """A gateway's catalog, with what each object is queued for."""

    def __init__(self, tmp_path: Path, routes: str) -> None:
        super().__init__(tmp_path, HEAD + routes)

    def take(self, *blobs: bytes) -> None:
        for blob in blobs:
            assert self.accept(blob).status == 0

    def queued(self) -> dict[str, dict[str, str]]:
        """Modality's series of each object -> destination -> state. Objects are named by their SOP class."""
        with self.db.reading() as conn:
            rows = conn.execute(
                "SELECT k.sop_class_uid, d.destination, d.state FROM delivery d JOIN instance i ON i.id = d.instance_id"
                " JOIN kind k ON k.id = i.kind_id"
            ).fetchall()
        found: dict[str, dict[str, str]] = {}
        for uid, destination, state in rows:
            found.setdefault(UID(uid).keyword or uid, {})[destination] = state
        return found


@pytest.fixture
def study() -> str:
    return new_uid()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Any]:
    made: list[Site] = []

    def build(routes: str) -> Site:
        made.append(Site(tmp_path, routes))
        return made[-1]

    yield build
    for site in made:
        site.close()


def test_which_storage_classes_have_no_image_of_their_own() -> None:
    names = {UID(uid).keyword for uid in IMAGELESS}
    assert {sop_class for sop_class, _ in KINDS.values()} <= names
    assert not any("ImageStorage" in name for name in names)
    assert "ParametricMapStorage" not in names
    assert "EnhancedUSVolumeStorage" not in names


@pytest.mark.parametrize("order", ["image first", "companion first"])
@pytest.mark.parametrize(
    ("sop_class", "modality", "destinations"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.7", "SEG", {"archive": "pending"}),  # Label Map Segmentation, of 2024
        ("1.2.840.10008.5.1.4.1.1.9.100.1", "PR", {"archive": "pending"}),  # Waveform Presentation State
        ("1.2.840.113619.4.30", "DOC", {"archive": "pending"}),  # a vendor's own
        ("1.2.840.113619.4.31", "US", {"": "held"}),
    ],
)
def test_what_no_table_has_is_known_by_its_modality(
    sites: Any, study: str, sop_class: str, modality: str, destinations: dict[str, str], order: str
) -> None:
    site, follower = sites(CT_TO_ARCHIVE), made(sop_class, modality, study)
    site.take(*([ct(study), follower] if order == "image first" else [follower, ct(study)]))
    assert site.queued()[sop_class] == destinations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("routes", [CT_TO_ARCHIVE, CT_TO_ARCHIVE + CT_TO_READER, CT_TO_READER + EVERYTHING])
@pytest.mark.parametrize("order", ["image first", "companion first"])
def test_a_companion_goes_where_its_images_go(sites: Any, study: str, kind: str, routes: str, order: str) -> None:
    site = sites(routes)
    blobs = [ct(study), companion(kind, study)]
    site.take(*(blobs if order == "image first" else blobs[::-1]))
    found = site.queued()
    assert found[KINDS[kind][0]] == found["CTImageStorage"]
    assert set(found["CTImageStorage"].values()) == {"pending"}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_of_arrival_comes_to_the_same(sites: Any, study: str, order: tuple[int, ...]) -> None:
    """Two kinds of images that go to different destinations, a report and marks."""
    pet = '[route.pet]\nto = ["reader"]\nwhen = { Modality = "PT" }\npriority = "stat"\n'
    site = sites(CT_TO_ARCHIVE + pet)
    blobs = [
        ct(study),
        made("PositronEmissionTomographyImageStorage", "PT", study),
        companion("report", study),
        companion("marks", study),
    ]
    site.take(*(blobs[index] for index in order))
    found = site.queued()
    for sop_class in (KINDS["report"][0], KINDS["marks"][0]):
        assert found[sop_class] == {"archive": "pending", "reader": "pending"}
    assert found["CTImageStorage"] == {"archive": "pending"}, "images do not follow"
    assert site.one("SELECT min(priority) FROM delivery WHERE destination = 'reader'") == 0
    assert site.one("SELECT count(*) FROM instance WHERE open_deliveries = 0") == 0
    with site.db.reading() as conn:
        assert ledger.check(conn) is None


def test_another_study_leads_nobody(sites: Any, study: str) -> None:
    site = sites(CT_TO_ARCHIVE)
    site.take(ct(new_uid()), companion("report", study))
    assert site.queued()[KINDS["report"][0]] == {"": "deferred"}


def test_it_waits_for_its_study_within_a_bound_and_is_unroutable_then(sites: Any, study: str) -> None:
    site = sites(CT_TO_ARCHIVE)
    site.take(companion("dose", study))
    assert site.queued()[KINDS["dose"][0]] == {"": "deferred"}
    later = time.time() + companions.AWAIT_SECONDS
    assert site.db.write(lambda conn: deliveries.requeue_due(conn, later - 60)) == []
    assert site.queued()[KINDS["dose"][0]] == {"": "deferred"}
    assert site.db.write(lambda conn: deliveries.requeue_due(conn, later + 1)) == [], "nobody is to be woken for it"
    assert site.queued()[KINDS["dose"][0]] == {"": "held"}
    assert site.one("SELECT reason_code FROM delivery") == "unroutable"
    site.take(ct(study))
    assert site.queued()[KINDS["dose"][0]] == {"archive": "pending"}, "even then its images take it along"


def test_a_route_that_names_it_decides_alone(sites: Any, study: str) -> None:
    dose = '[route.dose]\nto = ["teaching"]\nwhen = { SOPClassUID = "*Radiation Dose SR*" }\n'
    site = sites(CT_TO_ARCHIVE + dose)
    site.take(companion("dose", study), ct(study), companion("report", study))
    found = site.queued()
    assert found[KINDS["dose"][0]] == {"teaching": "pending"}
    assert found[KINDS["report"][0]] == {"archive": "pending"}, "and it leads nobody there"


@pytest.mark.parametrize(
    "when", ['{ Modality = { not = "US" } }', "{ Modality = { present = true } }", '{ Modality = "*" }']
)
def test_a_route_for_anything_names_nothing(sites: Any, study: str, when: str) -> None:
    site = sites(CT_TO_READER + f'[route.any]\nto = ["archive"]\nwhen = {when}\n')
    site.take(companion("marks", study), ct(study))
    assert site.queued()[KINDS["marks"][0]] == {"archive": "pending", "reader": "pending"}


def test_companions_may_be_left_behind_by_configuration(sites: Any, study: str) -> None:
    site = sites(CT_TO_ARCHIVE + CT_TO_READER + "companions = false\n")
    site.take(companion("marks", study), ct(study), companion("report", study))
    found = site.queued()
    assert found["CTImageStorage"] == {"archive": "pending", "reader": "pending"}
    assert found[KINDS["marks"][0]] == found[KINDS["report"][0]] == {"archive": "pending"}


def test_a_conflict_leads_nobody_and_its_hold_is_kept(sites: Any, study: str) -> None:
    """A second version of a report, under the same SOP Instance UID, is held wherever its study goes."""
    site = sites(CT_TO_ARCHIVE + '[listen]\nconflicts = "hold"\n')
    uid = new_uid()
    site.take(companion("report", study, uid=uid), companion("report", study, uid=uid, StudyDescription="x"), ct(study))
    with site.db.reading() as conn:
        rows = conn.execute(
            "SELECT i.state, d.destination, d.state FROM instance i JOIN delivery d ON d.instance_id = i.id"
            " WHERE i.sop_instance_uid = ? ORDER BY i.id",
            (uid,),
        ).fetchall()
    first, second = ([tuple(row) for row in rows if row[0] == state] for state in ("stored", "conflict"))
    assert first == [("stored", "archive", "pending")]
    assert second, "the other version is there"
    assert all(state == "held" for _, _, state in second)


def key_object(study: str, uids: list[str], title: str = "113004") -> bytes:
    """A key object (PS3.3 A.35.4) with a title of PS3.16 CID 7010 that references images."""
    concept = pydicom.Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = title, "DCM", "For Teaching"
    series = pydicom.Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = new_uid(), []
    for uid in uids:
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = pydicom.uid.CTImageStorage, uid
        series.ReferencedSOPSequence.append(item)
    evidence = pydicom.Dataset()
    evidence.StudyInstanceUID, evidence.ReferencedSeriesSequence = study, [series]
    return companion(
        "key", study, ConceptNameCodeSequence=[concept], CurrentRequestedProcedureEvidenceSequence=[evidence]
    )


TEACHING = '[route.teaching]\nto = ["teaching"]\nwhen = { Modality = "KO", CodeValue = "113004" }\n'


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_key_object_with_a_title_takes_its_images_along(sites: Any, study: str, order: tuple[int, ...]) -> None:
    site = sites(CT_TO_ARCHIVE + TEACHING)
    named, other = new_uid(), new_uid()
    blobs = [ct(study, named), ct(study, other), key_object(study, [named]), companion("marks", study)]
    site.take(*(blobs[index] for index in order))
    with site.db.reading() as conn:
        rows = conn.execute(
            "SELECT i.sop_instance_uid, d.destination FROM instance i JOIN delivery d ON d.instance_id = i.id"
            " WHERE d.destination = 'teaching' AND i.companion = 0"
        ).fetchall()
    assert [tuple(row) for row in rows] == [(named, "teaching")]
    found = site.queued()
    assert found[KINDS["key"][0]] == {"teaching": "pending"}
    assert found[KINDS["marks"][0]] == {"archive": "pending"}, "what a key object takes along leads nobody"


def test_a_key_object_may_name_many_images(sites: Any, study: str) -> None:
    site = sites(CT_TO_ARCHIVE + TEACHING)
    uids = [new_uid() for _ in range(300)]
    site.take(key_object(study, uids), ct(study, uids[299]))
    assert site.one("SELECT count(*) FROM taken_along") == 299
    assert site.one("SELECT count(*) FROM delivery WHERE destination = 'teaching'") == 2


def test_a_key_object_without_that_title_only_follows(sites: Any, study: str) -> None:
    site = sites(CT_TO_ARCHIVE + TEACHING)
    uid = new_uid()
    site.take(ct(study, uid), key_object(study, [uid], title="113000"))
    assert site.queued() == {
        "CTImageStorage": {"archive": "pending"},
        KINDS["key"][0]: {"archive": "pending"},
    }


def test_what_waits_for_a_route_finds_its_study_when_the_routes_are_asked_again(sites: Any, study: str) -> None:
    site = sites('[route.mr]\nto = ["archive"]\nwhen = { Modality = "MR" }\n')
    site.take(companion("report", study), ct(study))
    (site.directory / "site.toml").write_text(HEAD + CT_TO_READER)
    site.intake.policy = Policy.from_config(load_config(site.directory))
    with site.db.reading() as conn:
        ids = [row[0] for row in conn.execute("SELECT id FROM instance ORDER BY companion").fetchall()]
    releaser = Releaser(site.db, site.spool, site.intake)
    assert sum(releaser.release(each, "ann", "a route is there", named=False).done for each in ids) >= 1
    found = site.queued()
    assert found["CTImageStorage"] == found[KINDS["report"][0]] == {"reader": "pending"}


def test_explain_says_where_a_companion_goes(sites: Any, study: str, tmp_path: Path) -> None:
    site = sites(CT_TO_READER)
    file = tmp_path / "report.dcm"
    file.write_bytes(companion("report", study))
    explain = ["route", "explain", str(file), "--config", str(site.directory)]
    before = CliRunner().invoke(cli, explain)
    assert before.exit_code == 1
    assert "no image of its study is stored" in before.output
    site.take(ct(study))
    after = CliRunner().invoke(cli, explain)
    assert after.exit_code == 0
    assert "would be sent to reader, routine, with the images of its study" in after.output
    told = json.loads(CliRunner().invoke(cli, [*explain, "--json"]).stdout)[0]
    assert told["follows_study"] is True
    assert [each["destination"] for each in told["with_study"]] == ["reader"]


def test_check_warns_where_companions_are_left_behind(sites: Any) -> None:
    left = load_text(sites, CT_TO_READER + "companions = false\n")
    assert any("reports, key objects and presentation states" in line for line in left)
    assert not any("key objects" in line for line in load_text(sites, CT_TO_READER))
    assert not any(
        "key objects" in line for line in load_text(sites, CT_TO_READER + "companions = false\n" + EVERYTHING)
    )


def load_text(sites: Any, routes: str) -> list[str]:
    site = sites(routes)
    return warnings(load_config(site.directory))
