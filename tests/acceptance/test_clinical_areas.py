"""One object of each clinical area goes the whole way; docs/clinical-areas.md has the table.

With EDGE_WRITE_TABLE set the table is written; else it must be as the document has it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pydicom
import pytest

from edge.transform import Transcoder
from edge.transform.syntaxes import IMPLICIT_LITTLE, JPEG_2000, JPEG_LS, RLE
from tests.support.clinical_areas import AREAS, Area, file_of
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import dataset, read_meta, sop_instance_uid
from tests.support.peers import REPOSITORY, StoreScp, requires, storescu, wait_until
from tests.support.web_door import WebEdge

DOCUMENT = REPOSITORY / "docs" / "clinical-areas.md"
#: Each area's Modality is routed by a rule of its own; nothing matches by chance.
MODALITIES = sorted({file_of(area)[0].Modality for area in AREAS})
RULES = "".join(f'[route.{each.lower()}]\nto = ["archive"]\nwhen = {{ Modality = "{each}" }}\n' for each in MODALITIES)
TEXT = CONFIG.replace('[route.everything]\nto = ["archive"]\n', RULES)
HEADINGS = ("area", "object", "received", "routed", "converted", "compressed", "corrected", "exported", "by DICOMweb")
#: What a destination wants otherwise; and a second gateway takes and gives all of them by DICOMweb.
CORRECTED = """
[destination.archive]
ae_title = "{title}"
host = "127.0.0.1"
port = {port}
[route.all]
to = ["archive"]
[coerce.institution]
set = {{ InstitutionName = "Example Health Clinic" }}
prefix = {{ AccessionNumber = "E" }}
[query]
"""


def check_object(path: Path) -> None:
    """dciodvfy finds no error."""
    found = subprocess.run([requires("dciodvfy"), str(path)], capture_output=True, text=True, check=False).stderr
    assert not [line for line in found.splitlines() if line.startswith("Error")], found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What became of each area's object, by step."""
    folder = tmp_path_factory.mktemp("areas")
    paths = {}
    for area in AREAS:
        paths[area.name] = folder / f"{area.name.replace(' ', '-')}.dcm"
        paths[area.name].write_bytes(file_of(area)[1])
        check_object(paths[area.name])
    (folder / "gateway").mkdir()
    with Receiving(folder / "gateway", TEXT) as site:
        storescu(list(paths.values()), site.port)
        site.settle()
        kept = {read_meta(each.read_bytes())[0][0x0003].rstrip(b"\0").decode(): each for each in site.files()}
        routes = dict(
            site.rows(
                "SELECT i.sop_instance_uid, d.route FROM instance i JOIN delivery d"
                " ON d.instance_id = i.id WHERE d.destination = 'archive'"
            )
        )
        transcoder = Transcoder(workers=1)
        try:
            found = {area.name: _steps(area, paths[area.name], kept, routes, transcoder, folder) for area in AREAS}
        finally:
            transcoder.close()
    corrected = _correct(folder, paths)
    return {name: {**steps, **corrected[name]} for name, steps in found.items()}


def _correct(folder: Path, paths: dict[str, Path]) -> dict[str, dict[str, str]]:
    """Each object goes in and out by DICOMweb, and as a corrected copy to an archive."""
    with StoreScp(folder / "archive") as archive:
        text = CORRECTED.format(title=archive.ae_title, port=archive.port)
        (folder / "web").mkdir()
        with WebEdge(folder / "web", text) as edge:
            sent = {name: pydicom.dcmread(path) for name, path in paths.items()}
            for each in paths.values():
                assert edge.stow(each.read_bytes()).status == 200, each.name
            wait_until(lambda: len(archive.files()) == len(paths), 60, "the archive has all")
            copies = {sop_instance_uid(each): each for each in archive.files()}
            for name, path in paths.items():
                _check_web(edge, path, sent[name])
                _check_copy(copies[sent[name].SOPInstanceUID], sent[name])
    steps = {"corrected": "valid, originals on record", "by DICOMweb": "in and out bit for bit"}
    return dict.fromkeys(paths, steps)


def _check_web(edge: WebEdge, path: Path, sent: pydicom.Dataset) -> None:
    """WADO-RS gives the data set bit for bit, and QIDO-RS finds it."""
    series = f"/studies/{sent.StudyInstanceUID}/series/{sent.SeriesInstanceUID}/instances"
    got = edge.web("GET", f"{series}/{sent.SOPInstanceUID}", {"Accept": "application/dicom; transfer-syntax=*"})
    assert (got.status, dataset(got.body)) == (200, dataset(path)), path.name
    (found,) = edge.web("GET", series).json()
    assert found["00080018"]["Value"] == [sent.SOPInstanceUID]


def _check_copy(path: Path, sent: pydicom.Dataset) -> None:
    """The corrected copy is valid, has the new values, what was before, and the same pixels."""
    check_object(path)
    copy = pydicom.dcmread(path)
    assert (copy.InstitutionName, copy.AccessionNumber) == ("Example Health Clinic", f"E{sent.AccessionNumber}")
    (before,) = copy.OriginalAttributesSequence[-1].ModifiedAttributesSequence
    assert before.AccessionNumber == sent.AccessionNumber
    assert copy.get("PixelData") == sent.get("PixelData")


def _steps(
    area: Area, path: Path, kept: dict[str, Path], routes: dict[str, str], transcoder: Transcoder, folder: Path
) -> dict[str, str]:
    sent = pydicom.dcmread(path)
    uid = sent.SOPInstanceUID
    stored = kept[uid]
    assert dataset(stored) == dataset(path), area.name
    assert routes[uid] == sent.Modality.lower()
    _convert(transcoder, stored, IMPLICIT_LITTLE, folder / "implicit.dcm", sent)
    check_object(folder / "implicit.dcm")
    compressed = []
    if "PixelData" in sent:
        for name, syntax in (("JPEG-LS", JPEG_LS), ("JPEG 2000", JPEG_2000), ("RLE", RLE)):
            _convert(transcoder, stored, syntax, folder / "compressed.dcm", sent)
            compressed.append(name)
    check_object(stored)
    exported = pydicom.dcmread(stored)
    assert exported.PatientID == "P0001"
    return {
        "received": "bit for bit",
        "routed": f"by Modality {sent.Modality}",
        "converted": "valid, same values",
        "compressed": f"{', '.join(compressed)}: same pixels" if compressed else "has no pixels",
        "exported": "valid Part 10 file",
    }


def _convert(transcoder: Transcoder, source: Path, syntax: str, target: Path, sent: pydicom.Dataset) -> None:
    target.unlink(missing_ok=True)
    meta, offset = read_meta(source.read_bytes())
    transcoder.convert(source, offset, meta[0x0010].rstrip(b"\0 ").decode(), syntax, target)
    made = pydicom.dcmread(target)
    assert made.SOPInstanceUID == sent.SOPInstanceUID
    if "PixelData" in sent:
        assert (made.pixel_array == sent.pixel_array).all()


def table(results: dict[str, dict[str, str]]) -> list[str]:
    rows = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    for area in AREAS:
        cells = (area.name, area.kind, *(results[area.name][step] for step in HEADINGS[2:]))
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def test_each_clinical_area_goes_the_whole_way(results: dict[str, dict[str, str]]) -> None:
    assert set(results) == {area.name for area in AREAS}
    begin, end = "<!-- table: written by tests/acceptance/test_clinical_areas.py -->", "<!-- end of table -->"
    text = DOCUMENT.read_text("utf-8")
    made = "\n".join([begin, *table(results), end])
    if os.environ.get("EDGE_WRITE_TABLE"):
        DOCUMENT.write_text(text[: text.index(begin)] + made + text[text.index(end) + len(end) :], "utf-8")
        text = DOCUMENT.read_text("utf-8")
    assert made in text


def test_all_areas_of_the_directive_are_there() -> None:
    asked = (
        "radiology, cardiology, dental, endoscopy, nuclear medicine, radiotherapy, obstetrics, gynecology,"
        " ophthalmology, optometry, dermatology, pathology, veterinary medicine, medical photography"
    )
    assert [area.name for area in AREAS] == asked.split(", ")
