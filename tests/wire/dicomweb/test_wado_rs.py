"""QIDO-RS and WADO-RS: what is here is found and given away bit for bit, to those who may, as they accept it."""

from __future__ import annotations

import base64
import itertools
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from edge.dicom.part10 import parse_meta
from tests.support.objects import ct_files, new_uid, part10
from tests.support.peers import wait_until
from tests.support.visitor import visitor
from tests.support.web_door import ORIGINS, Answer, WebEdge, related
from tests.support.web_site import PASSWORD, csrf

ORIGIN = ORIGINS[0]
#: Of the objects of this file alone.
OWN = "ReferringPhysicianName=Wado^Of"


class Here:
    """A gateway with a series of CT, one multi-frame RLE object, and a study of another patient."""

    def __init__(self, edge: WebEdge, folder: Path) -> None:
        self.edge = edge
        self.ct = ct_files(folder / "ct", 12, 20_000, PatientID="W0001", ReferringPhysicianName="Wado^Of")
        self.other = ct_files(
            folder / "other",
            2,
            4096,
            PatientName="Müller^Jörg",
            PatientID="W0002",
            ReferringPhysicianName="Wado^Of",
            StudyDate="20250505",
            AccessionNumber="A2",
        )
        self.rle = _multiframe(pydicom.dcmread(self.ct[0]))
        for parts in ([path.read_bytes() for path in self.ct + self.other], [part10(self.rle, RLELossless)]):
            assert edge.stow(*parts).status == 200
        edge.settle()
        first = pydicom.dcmread(self.ct[0])
        self.study, self.series = first.StudyInstanceUID, first.SeriesInstanceUID
        self.uid = first.SOPInstanceUID
        wait_until(self._has_headers, 20, "headers are read")

    def _has_headers(self) -> bool:
        studies = [str(pydicom.dcmread(each[0]).StudyInstanceUID) for each in (self.ct, self.other)]
        with sqlite3.connect(f"file:{self.edge.data_dir}/catalog.db?mode=ro", uri=True) as conn:
            sql = (
                "SELECT count(*) FROM instance_header h JOIN instance i ON i.id = h.instance_id "
                "JOIN study s ON s.id = i.study_id WHERE s.study_uid IN (?, ?)"
            )
            return bool(conn.execute(sql, studies).fetchone()[0] == 15)

    def get(self, path: str, accept: str = "", **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.edge.web("GET", path, {**given, **({"Accept": accept} if accept else {})}, client="looker")

    @property
    def of_series(self) -> str:
        return f"/studies/{self.study}/series/{self.series}"

    @property
    def of_instance(self) -> str:
        return f"{self.of_series}/instances/{self.uid}"


def _multiframe(like: pydicom.Dataset) -> pydicom.Dataset:
    ds = pydicom.Dataset()
    of_study = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate")
    for keyword in (*of_study, "ReferringPhysicianName"):
        setattr(ds, keyword, getattr(like, keyword))
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.7.2", new_uid(), new_uid()
    ds.Modality, ds.Rows, ds.Columns, ds.NumberOfFrames, ds.SamplesPerPixel = "US", 4, 4, 3, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = encapsulate([bytes([each] * 70) for each in (1, 2, 3)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


@pytest.fixture(scope="module")
def here(edge: WebEdge, tmp_path_factory: pytest.TempPathFactory) -> Here:
    return Here(edge, tmp_path_factory.mktemp("wado"))


def parts(answer: Answer) -> list[tuple[str, bytes]]:
    """Content-Type and content of each part."""
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    found = []
    for each in answer.body.split(b"\r\n--" + boundary)[1:-1]:
        head, _, body = each.partition(b"\r\n\r\n")
        found.append((head.decode().partition(": ")[2].strip(), body))
    return found


def data_set(file: bytes) -> bytes:
    return file[parse_meta(file[:65536]).dataset_offset :]


# -- QIDO-RS ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 2),
        ("PatientID=W0001", 1),
        ("PatientID=w0001", 0),
        ("PatientName=test*", 1),
        ("00100010=muller^jorg", 1),
        ("StudyDate=20250101-20251231", 1),
        ("StudyDate=20260101-", 1),
        ("AccessionNumber=A2&includefield=all", 1),
        ("ModalitiesInStudy=US", 1),
        ("ModalitiesInStudy=MR", 0),
        ("ModalitiesInStudy=MR%5CUS&multiplevaluematching=true", 1),
        ("StudyDescription=%22%22&emptyvaluematching=true", 2),
        ("AccessionNumber=%22%22&emptyvaluematching=true", 0),
        ("limit=1", 1),
        ("limit=1&offset=1", 1),
        ("offset=5", 0),
        ("fuzzymatching=true&PatientName=Test*", 1),
    ],
)
def test_studies_that_match(here: Here, query: str, count: int) -> None:
    answer = here.get(f"/studies?{OWN}&{query}", "application/dicom+json")
    assert (answer.status, len(answer.json()) if answer.body else 0) == (200 if count else 204, count)


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("orderby=StudyDate", "W0002"),
        ("orderby=-StudyDate", "W0001"),
        ("orderby=-StudyDate&limit=1", "W0001"),
        ("orderby=-StudyDate&limit=1&offset=1", "W0002"),
        ("orderby=PatientName", "W0002"),
        ("orderby=-NumberOfStudyRelatedInstances,StudyDate", "W0001"),
    ],
)
def test_answers_in_the_order_that_is_asked_for(here: Here, query: str, first: str) -> None:
    found = here.get(f"/studies?{query}&{OWN}").json()
    assert found[0]["00100020"]["Value"] == [first]
    assert here.get("/studies?orderby=Nonsense").status == 400


def test_a_parameter_does_not_widen_the_study_of_the_address(here: Here) -> None:
    one, other = (each["0020000D"]["Value"][0] for each in here.get(f"/studies?{OWN}").json())
    found = here.get(f"/studies/{one}/series?StudyInstanceUID={one},{other}").json()
    assert {each["0020000D"]["Value"][0] for each in found} == {one}
    assert here.get(f"/studies/{one}/series?StudyInstanceUID={other}").status == 400


def test_what_a_study_says(here: Here) -> None:
    (found,) = here.get("/studies?PatientID=W0001&includefield=SOPClassesInStudy").json()
    said = {tag: each.get("Value") for tag, each in found.items()}
    assert said["00100010"] == [{"Alphabetic": "Test^Patient"}]
    assert (said["0020000D"], said["00201206"], said["00201208"]) == ([here.study], [2], [13])
    assert said["00080061"] in (["CT", "US"], ["US", "CT"])
    assert set(said["00080062"]) == {"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7.2"}
    assert said["00081190"] == [f"{here.edge.web_url}/studies/{here.study}"]
    assert "00080052" not in found


def test_names_are_utf_8_whatever_they_came_in(here: Here) -> None:
    (found,) = here.get("/studies?PatientID=W0002").json()
    assert found["00100010"]["Value"] == [{"Alphabetic": "Müller^Jörg"}]


def test_series_and_instances_below_and_beside(here: Here) -> None:
    assert len(here.get(f"/studies/{here.study}/series").json()) == 2
    assert len(here.get("/series?Modality=US&PatientID=W0001").json()) == 1
    assert len(here.get(f"{here.of_series}/instances").json()) == 12
    assert len(here.get(f"/studies/{here.study}/instances").json()) == 13
    (one,) = here.get(f"/instances?SOPInstanceUID={here.uid}").json()
    assert one["00081190"]["Value"] == [f"{here.edge.web_url}{here.of_instance}"]
    assert (one["00280010"]["Value"], one["00280011"]["Value"]) == ([19], [512])


def test_what_is_not_known_is_said_and_what_is_no_attribute_is_refused(here: Here) -> None:
    answer = here.get("/studies?BodyPartExamined=HEAD&PatientID=W0001")
    assert "BodyPartExamined is not known here" in answer.headers["warning"]
    for asked, named in (("PatientID=1&Nonsense=1", "Nonsense"), ("orderby=-Elsewhere", "Elsewhere"), ("00=1", "00")):
        refused = here.get(f"/studies?{asked}")
        assert (refused.status, f"'{named}' is no attribute".encode() in refused.body) == (400, True)
        assert b"(PatientID)" in refused.body
        assert b"limit" in refused.body
    assert here.get("/studies?limit=many").status == 400
    more = here.get(f"{here.of_series}/instances?limit=5")
    assert (len(more.json()), "additional results" in more.headers["warning"]) == (5, True)
    fuzzy = here.get(f"/studies?{OWN}&fuzzymatching=true")
    assert "fuzzymatching parameter is not supported" in fuzzy.headers["warning"]


# -- WADO-RS ----------------------------------------------------------------------------------------------------------


def test_a_study_comes_bit_for_bit(here: Here) -> None:
    answer = here.get(f"/studies/{here.study}", 'multipart/related; type="application/dicom"; transfer-syntax=*')
    came = {parse_meta(body[:65536]).sop_instance_uid: body for _, body in parts(answer)}
    assert len(came) == 13
    for path in here.ct:
        file = path.read_bytes()
        assert data_set(came[parse_meta(file[:65536]).sop_instance_uid]) == data_set(file)
    assert all(b"127.0.0.1" not in each[:1000] for each in came.values())


#: Accept headers as clients write them, and what an instance, its metadata and a frame are answered with.
ACCEPTED = [
    ("", 200, 200, 200),
    ("*/*", 200, 200, 200),
    ('multipart/related; type="application/dicom"', 200, 406, 406),
    ("multipart/related; type=application/dicom; transfer-syntax=*", 200, 406, 406),
    ("application/dicom", 200, 406, 406),
    ("application/dicom+json", 406, 200, 406),
    ("application/json", 406, 200, 406),
    # OHIF: metadata, frames, and both at once
    ('application/dicom+json, multipart/related; type="application/octet-stream"; transfer-syntax=*', 406, 200, 200),
    ("multipart/related; type=application/octet-stream; transfer-syntax=*", 406, 406, 200),
    (
        'multipart/related; type="image/jls"; q=1, multipart/related; type="application/octet-stream"; q=0.1',
        406,
        406,
        200,
    ),
    ("application/octet-stream", 406, 406, 200),
    ('multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.80', 200, 406, 406),
    ('multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.50', 406, 406, 406),
    ("image/png", 406, 406, 406),
    ("text/html, application/xhtml+xml, */*;q=0.8", 200, 200, 200),
]


@pytest.mark.parametrize(("accept", "instance", "metadata", "frame"), ACCEPTED)
def test_what_is_accepted_decides(here: Here, accept: str, instance: int, metadata: int, frame: int) -> None:
    asked = ("", "/metadata", "/frames/1")
    assert [here.get(here.of_instance + each, accept).status for each in asked] == [instance, metadata, frame]


def test_one_instance_alone_is_a_file_with_ranges(here: Here) -> None:
    whole = here.get(here.of_instance, "application/dicom")
    assert data_set(whole.body) == data_set(here.ct[0].read_bytes())
    assert whole.headers["content-type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    for asked, cut in (("bytes=0-9", slice(0, 10)), ("bytes=200-999", slice(200, 1000)), ("bytes=-7", slice(-7, None))):
        part = here.get(here.of_instance, "application/dicom", Range=asked)
        assert (part.status, part.body) == (206, whole.body[cut])
    assert here.get(here.of_instance, "application/dicom", Range="bytes=99999999-").status == 416
    etag = whole.headers["etag"]
    assert here.get(here.of_instance, "application/dicom", If_None_Match=etag).status == 304
    as_part = 'multipart/related; type="application/dicom"'
    assert here.get(here.of_instance, as_part, If_None_Match=etag).status == 200, "another form has another ETag"
    assert here.get(here.of_instance, "application/dicom", Range="bytes=0-9", If_Range='"other"').status == 200


def plain(ds: pydicom.Dataset) -> dict[str, Any]:
    """As pydicom has it in JSON, without what is bulk."""
    found = json.loads(ds.to_json(bulk_data_threshold=1 << 30, suppress_invalid_tags=True))
    return {tag: each for tag, each in found.items() if tag not in ("7FE00010", "00080005")}


def test_metadata_is_complete_and_what_pydicom_says(here: Here) -> None:
    found = {each["00080018"]["Value"][0]: each for each in here.get(f"{here.of_series}/metadata").json()}
    assert len(found) == 12
    for path in here.ct:
        ds = pydicom.dcmread(path)
        ours = found[ds.SOPInstanceUID]
        assert ours.pop("7FE00010") == {"vr": "OW", "BulkDataURI": f"instances/{ds.SOPInstanceUID}/bulkdata/7FE00010"}
        assert ours.pop("00080005") == {"vr": "CS", "Value": ["ISO_IR 192"]}
        assert ours == plain(ds)


@pytest.mark.parametrize(
    ("path", "address"),
    [("instance", "bulkdata/7FE00010"), ("series", "instances/{uid}/bulkdata/7FE00010")],
)
def test_bulk_data_is_where_its_relative_address_says(here: Here, path: str, address: str) -> None:
    of = here.of_instance if path == "instance" else here.of_series
    found = here.get(f"{of}/metadata").json()
    mine = next(each for each in found if each["00080018"]["Value"] == [here.uid])
    assert mine["7FE00010"]["BulkDataURI"] == address.format(uid=here.uid)
    answer = here.get(f"{of}/{mine['7FE00010']['BulkDataURI']}", "application/octet-stream")
    assert answer.body == pydicom.dcmread(here.ct[0]).PixelData


def test_frames_of_a_compressed_object_come_as_they_are(here: Here) -> None:
    of = f"/studies/{here.study}/series/{here.rle.SeriesInstanceUID}/instances/{here.rle.SOPInstanceUID}"
    answer = here.get(f"{of}/frames/3,1", "multipart/related; type=application/octet-stream; transfer-syntax=*")
    assert parts(answer) == [
        ("image/dicom-rle; transfer-syntax=1.2.840.10008.1.2.5", bytes([each] * 70)) for each in (3, 1)
    ]
    assert here.get(f"{of}/frames/4").status == 404
    assert here.get(f"{of}/frames/0").status == 404
    single = here.get(f"{of}/frames/2", "image/dicom-rle")
    assert (single.status, single.body) == (200, bytes([2] * 70))
    assert len(parts(here.get(f"{of}/bulkdata/7FE00010"))) == 3


def test_a_page_of_a_configured_origin_may_read_and_no_other(here: Here) -> None:
    answer = here.get("/studies", Origin=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["vary"] == "Origin"
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    before = here.edge.web("OPTIONS", "/studies", ask, client="")
    assert (before.status, "Authorization" in before.headers["access-control-allow-headers"]) == (204, True)
    assert "access-control-allow-origin" not in here.get("/studies", Origin="https://evil.example.org").headers


def test_what_is_not_there_is_404_and_who_may_not_look_is_told(here: Here) -> None:
    assert here.get("/studies/1.2.3").status == 404
    assert here.get(f"/studies/1.2.3/series/{here.series}").status == 404
    assert here.edge.web("GET", f"/studies/{here.study}", client="").status == 401


def test_each_look_is_on_record_once(here: Here) -> None:
    here.get(here.of_instance)
    here.get(here.of_instance)
    with sqlite3.connect(f"file:{here.edge.data_dir}/catalog.db?mode=ro", uri=True) as conn:
        rows = conn.execute(
            "SELECT l.who, s.study_uid FROM ledger l JOIN study s ON s.id = l.study_id WHERE l.event = 'viewed'"
        ).fetchall()
    assert rows.count(("client.looker", here.study)) == 1


def test_a_head_has_no_body(here: Here) -> None:
    answer = here.edge.web("HEAD", f"/studies/{here.study}", client="looker")
    assert (answer.status, answer.body, int(answer.headers["content-length"]) > 100_000) == (200, b"", True)


def test_what_was_just_stored_is_found_at_once(here: Here, tmp_path: Path) -> None:
    for path in ct_files(tmp_path, 3, 4096):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        assert here.edge.stow(path.read_bytes()).status == 200
        assert here.get(f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/metadata").status == 200
        assert here.get(f"/studies?StudyInstanceUID={ds.StudyInstanceUID}").status == 200


def test_a_header_that_is_too_long_for_the_catalog_comes_from_the_file(here: Here, tmp_path: Path) -> None:
    values = np.arange(6000, dtype="<u2")
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [6000, 0, 16], "US"
    item.add_new(0x00283006, "OW", values.tobytes())
    (path,) = ct_files(tmp_path, 1, 4096, ModalityLUTSequence=[item], ImageComments="c" * 9000)
    ds = pydicom.dcmread(path)
    assert here.edge.stow(path.read_bytes()).status == 200
    (ours,) = here.get(f"/studies/{ds.StudyInstanceUID}/metadata").json()
    ours.pop("7FE00010"), ours.pop("00080005")
    table = ours["00283000"]["Value"][0]["00283006"]
    bulk = here.get(f"/studies/{ds.StudyInstanceUID}/{table.pop('BulkDataURI')}", "application/octet-stream")
    table["InlineBinary"] = base64.b64encode(bulk.body).decode()
    assert ours == plain(ds)
    assert list(itertools.chain(ours["00204000"]["Value"])) == ["c" * 9000]


def test_one_frame_as_a_picture(here: Here) -> None:
    whole = here.get(f"{here.of_instance}/rendered", "image/png")
    assert (whole.status, whole.headers["content-type"], whole.body[:8]) == (200, "image/png", b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(whole.body[16:20], "big") == 512
    small = here.get(f"{here.of_series}/thumbnail", "image/png")
    assert (small.status, int.from_bytes(small.body[16:20], "big")) == (200, 128)
    window = here.get(f"{here.of_instance}/frames/1/rendered?window=40,400,linear&viewport=64,64", "image/png")
    assert (window.status, int.from_bytes(window.body[16:20], "big"), window.body != small.body) == (200, 64, True)
    assert here.get(f"{here.of_instance}/rendered?window=wide").status == 400
    assert here.get(f"{here.of_instance}/rendered", "video/mp4").status == 406
    of = f"/studies/{here.study}/series/{here.rle.SeriesInstanceUID}/instances/{here.rle.SOPInstanceUID}"
    assert here.get(f"{of}/frames/2/rendered").status == 406  # its frames are none that RLE has
    assert here.get(f"{here.of_instance}/rendered", "image/png").body == whole.body


def test_a_person_who_has_signed_in_at_the_console_may_look_and_not_store(here: Here) -> None:
    edge = here.edge
    link = re.search(r"(http://\S+/setup\?token=\S+)", edge.log.read_text())
    assert link is not None
    with visitor(edge.url(""), follow_redirects=False) as browser:
        given = {"csrf": csrf(browser, link[1]), "token": link[1].partition("token=")[2]}
        given |= {"name": "anna", "password": PASSWORD, "again": PASSWORD}
        assert browser.post("/setup", data=given).status_code == 303
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    assert edge.web("GET", "/studies", cookie, client="").status == 200
    assert edge.web("GET", f"{here.of_series}/metadata", cookie, client="").status == 200
    assert edge.web("POST", "/studies", {**cookie, "Content-Type": related()}, b"", client="").status == 401
    assert edge.web("GET", "/studies", {"Cookie": "edge-0067=" + "x" * 43}, client="").status == 401
