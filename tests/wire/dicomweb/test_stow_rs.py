"""STOW-RS in: what is named as stored is on stable storage, what is not is named as failed."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import dicomweb_client
import pydicom
import pytest
import requests

from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import requires, wait_until
from tests.support.web_door import BOUNDARY, ROUTED_PATIENT, TOKEN, SharedEdge, WebEdge, multipart, related

SMALL = 4096


def uids_here(edge: WebEdge) -> set[str]:
    edge.settle()
    return {sop_instance_uid(path) for path in (edge.data_dir / "spool").rglob("*.dcm")}


def study_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def test_all_stored_is_200_with_every_instance_named(edge: WebEdge, tmp_path: Path) -> None:
    files = ct_files(tmp_path, 60, SMALL)
    answer = edge.stow(*(path.read_bytes() for path in files))
    uids = [sop_instance_uid(path) for path in files]
    assert (answer.status, answer.stored(), answer.failed()) == (200, uids, {})
    assert answer.headers["content-type"] == "application/dicom+json"
    assert set(uids) <= uids_here(edge)
    url = answer.json()["00081190"]["Value"][0]
    assert url == f"{edge.web_url}/studies/{study_of(files[0])}"


def test_the_bytes_are_kept_as_they_came(edge: WebEdge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, 300_000)
    assert edge.stow(path.read_bytes()).status == 200
    edge.settle()
    kept = next(
        each for each in (edge.data_dir / "spool").rglob("*.dcm") if sop_instance_uid(each) == sop_instance_uid(path)
    )
    theirs, ours = pydicom.dcmread(path), pydicom.dcmread(kept)
    assert theirs == ours
    assert ours.file_meta.SourceApplicationEntityTitle == "VIEWER"


def test_the_same_again_is_success_and_one_object(edge: WebEdge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, SMALL)
    for _ in range(2):
        assert edge.stow(path.read_bytes()).stored() == [sop_instance_uid(path)]
    edge.settle()
    kept = [
        each for each in (edge.data_dir / "spool").rglob("*.dcm") if sop_instance_uid(each) == sop_instance_uid(path)
    ]
    assert len(kept) == 1


def test_other_bytes_under_a_known_uid_are_kept_as_a_conflict(edge: WebEdge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, SMALL)
    data = path.read_bytes()
    assert edge.stow(data).status == 200
    assert edge.stow(data[:-2] + b"\x7f\x7f").status == 200
    found = json.loads(edge.cli("instances", "list", "--state", "conflict", "--limit", "1000", "--json").stdout)
    assert [each["sop_instance_uid"] for each in found].count(sop_instance_uid(path)) == 1


def test_one_good_and_one_bad_part_is_202_and_the_good_one_is_named(edge: WebEdge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, SMALL)
    answer = edge.stow(path.read_bytes(), b"no DICOM file at all")
    assert answer.status == 202
    assert answer.stored() == [sop_instance_uid(path)]
    assert answer.failed() == {"": 0xC000}


def test_none_stored_is_409(edge: WebEdge) -> None:
    answer = edge.stow(b"nothing", b"x" * 200)
    assert (answer.status, answer.stored(), len(answer.json()["00081198"]["Value"])) == (409, [], 2)


def test_an_instance_of_another_study_fails_alone(edge: WebEdge, tmp_path: Path) -> None:
    (mine,), (other,) = ct_files(tmp_path / "a", 1, SMALL), ct_files(tmp_path / "b", 1, SMALL)
    answer = edge.stow(mine.read_bytes(), other.read_bytes(), study=study_of(mine))
    assert (answer.status, answer.stored()) == (202, [sop_instance_uid(mine)])
    assert answer.failed() == {sop_instance_uid(other): 0xA900}
    assert sop_instance_uid(other) not in uids_here(edge)


@pytest.mark.parametrize("content_type", [related(), f'Multipart/Related;type=application/dicom;boundary="{BOUNDARY}"'])
@pytest.mark.parametrize(
    "headers",
    [
        "Content-Type: application/dicom",
        "Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\nContent-Location: /x\r\nX-Y: z",
        "Content-Length: 12",
    ],
)
def test_quoted_or_not_and_any_headers_of_a_part(
    edge: WebEdge, tmp_path: Path, content_type: str, headers: str
) -> None:
    (path,) = ct_files(tmp_path, 1, SMALL)
    answer = edge.web(
        "POST", "/studies", {"Content-Type": content_type}, multipart([path.read_bytes()], headers=headers)
    )
    assert (answer.status, answer.stored()) == (200, [sop_instance_uid(path)])


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_chunked_body_however_it_is_cut_into_chunks(edge: WebEdge, tmp_path: Path, step: int) -> None:
    (path,) = ct_files(tmp_path, 1, 1024)
    body = multipart([path.read_bytes()])
    chunks = (body[at : at + step] for at in range(0, len(body), step))
    answer = edge.web("POST", "/studies", {"Content-Type": related()}, chunks)
    assert (answer.status, answer.stored()) == (200, [sop_instance_uid(path)])


def test_a_single_part_10_file_as_the_body(edge: WebEdge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, SMALL)
    answer = edge.web("POST", "/studies", {"Content-Type": "application/dicom"}, path.read_bytes())
    assert (answer.status, answer.stored()) == (200, [sop_instance_uid(path)])


@pytest.mark.parametrize(
    "inside", [f"--{BOUNDARY}", f"--{BOUNDARY}--", f"\r\n--{BOUNDARY}x", f"\r\n-{BOUNDARY}", "\r\n"]
)
def test_what_looks_like_the_boundary_inside_the_pixels_is_pixels(edge: WebEdge, tmp_path: Path, inside: str) -> None:
    (path,) = ct_files(tmp_path, 1, SMALL)
    data, odd = path.read_bytes(), inside.encode()
    data = data[:-2000] + odd + data[-2000 + len(odd) :]
    answer = edge.stow(data)
    assert (answer.status, answer.stored()) == (200, [sop_instance_uid(path)])
    edge.settle()
    kept = next(
        each for each in (edge.data_dir / "spool").rglob("*.dcm") if sop_instance_uid(each) == sop_instance_uid(path)
    )
    assert kept.read_bytes()[-4096:] == data[-4096:]


def test_a_preamble_and_an_epilogue_mean_nothing(edge: WebEdge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, SMALL)
    body = b"This is a multipart message.\r\n" + multipart([path.read_bytes()]) + b"The end."
    answer = edge.web("POST", "/studies", {"Content-Type": related()}, body)
    assert (answer.status, answer.stored()) == (200, [sop_instance_uid(path)])


@pytest.mark.parametrize("closing", [f"--{BOUNDARY}--\r\n", f"\r\n--{BOUNDARY}--\r\n"])
def test_a_body_without_its_closing_delimiter_is_never_200(edge: WebEdge, tmp_path: Path, closing: str) -> None:
    whole, cut = ct_files(tmp_path, 2, SMALL)
    body = multipart([whole.read_bytes(), cut.read_bytes()])[: -len(closing)]
    answer = edge.web("POST", "/studies", {"Content-Type": related()}, body)
    assert (answer.status, answer.stored()) == (400, [sop_instance_uid(whole)])
    assert sop_instance_uid(cut) not in uids_here(edge)


def test_of_a_connection_that_breaks_the_whole_parts_stay(edge: WebEdge, tmp_path: Path) -> None:
    whole, cut = ct_files(tmp_path, 2, SMALL)
    body = multipart([whole.read_bytes(), cut.read_bytes()])
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer viewer-{TOKEN}\r\n"
    head += f"Content-Type: {related()}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", edge.web_port), 10) as sock:
        sock.sendall(head.encode() + body[:-1000])
        sock.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: sock.recv(65536), b""))
    assert said.startswith(b"HTTP/1.1 400 ")
    assert sop_instance_uid(whole) in uids_here(edge)
    assert sop_instance_uid(cut) not in uids_here(edge)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": 'multipart/related; type="application/pdf"; boundary=b'}, b"", 415),
        ({"Content-Type": related(), "Content-Encoding": "gzip"}, b"", 415),
        ({"Content-Type": related()}, multipart([b"x"], headers="Content-Type: image/jpeg"), 415),
        ({}, b"x", 415),
        ({"Content-Type": 'multipart/related; type="application/dicom"'}, b"x", 400),
        ({"Content-Type": related()}, b"", 400),
        ({"Content-Type": related("other")}, multipart([b"x"]), 400),
        ({"Content-Type": related(), "Accept": "text/html"}, b"", 406),
    ],
)
def test_what_cannot_be_taken_is_said(edge: WebEdge, headers: dict[str, str], body: bytes, status: int) -> None:
    assert edge.web("POST", "/studies", headers, body).status == status


def test_xml_for_who_asks_for_it(edge: WebEdge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, SMALL)
    headers = {"Content-Type": related(), "Accept": "application/dicom+xml"}
    answer = edge.web("POST", "/studies", headers, multipart([path.read_bytes(), b"garbage"]))
    assert (answer.status, answer.headers["content-type"]) == (202, "application/dicom+xml")
    space = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    found = ElementTree.fromstring(answer.body)
    tags = {each.get("tag"): each for each in found.iter(f"{space}DicomAttribute")}
    assert tags["00081155"].find(f"{space}Value").text in ("", None, sop_instance_uid(path))  # type: ignore[union-attr]
    assert {"00081198", "00081199", "00081197"} <= tags.keys()


def test_who_is_not_known_is_401_and_who_may_not_store_is_403(edge: WebEdge) -> None:
    assert edge.stow(b"x", client="").status == 401
    assert edge.stow(b"x", client="nobody").status == 401
    assert edge.stow(b"x", client="looker").status == 403
    assert edge.web("POST", "/nothing", client="looker").status == 404
    assert edge.web("DELETE", "/studies").headers["allow"].endswith("POST")
    why = "DICOMweb: no [client] has its token or certificate"
    wait_until(lambda: (why, "127.0.0.1") in refused_callers(edge), 10, "the caller is listed")


def refused_callers(edge: WebEdge) -> set[tuple[str, str]]:
    return {(each["lacks"], each["address"]) for each in edge.api_status()["modalities"]}


def test_several_requests_on_one_connection(edge: WebEdge, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", edge.web_port, timeout=60)
    headers = {"Content-Type": related(), "Authorization": f"Bearer viewer-{TOKEN}"}
    for number in range(3):
        (path,) = ct_files(tmp_path / str(number), 1, SMALL)
        connection.request("POST", "/dicom-web/studies", multipart([path.read_bytes()]), headers)
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
    connection.close()


def test_dicomweb_client_stores(edge: WebEdge, tmp_path: Path) -> None:
    files = ct_files(tmp_path, 3, SMALL)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer viewer-{TOKEN}"
    client = dicomweb_client.DICOMwebClient(edge.web_url, session=session)
    answer = client.store_instances([pydicom.dcmread(path) for path in files])
    session.close()
    assert {each.ReferencedSOPInstanceUID for each in answer.ReferencedSOPSequence} == set(map(sop_instance_uid, files))


def test_curl_stores_a_body_that_it_announces(edge: WebEdge, tmp_path: Path) -> None:
    files = ct_files(tmp_path, 3, 700_000)
    body = tmp_path / "body"
    body.write_bytes(multipart([path.read_bytes() for path in files]))
    done = subprocess.run(
        [
            *(requires("curl"), "-sS", "-w", "%{http_code}", "-o", "/dev/null", "-H", f"Content-Type: {related()}"),
            *("-H", f"Authorization: Bearer viewer-{TOKEN}", "--data-binary", f"@{body}", f"{edge.web_url}/studies"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "200"
    assert set(map(sop_instance_uid, files)) <= uids_here(edge)


def test_what_is_stored_is_routed_and_sent(edge: SharedEdge, tmp_path: Path) -> None:
    files = ct_files(tmp_path / "ct", 5, SMALL, PatientID=ROUTED_PATIENT)
    assert edge.stow(*(path.read_bytes() for path in files)).status == 200
    wait_until(lambda: edge.archive.uids() >= set(map(sop_instance_uid, files)), 30, "all at the archive")
