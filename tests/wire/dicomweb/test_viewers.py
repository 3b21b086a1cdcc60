"""What viewers and their libraries really send is understood: directly, and behind a proxy under another path."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dicomweb_client
import numpy as np
import pydicom
import pytest
import requests

from tests.support.committing import node_modules
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import ENVIRONMENT, REPOSITORY, Peer, free_port, listens
from tests.support.peers import requires as find_program
from tests.support.web_door import ORIGINS, TOKEN, WebEdge

ORIGIN = ORIGINS[1]
VIEWER = REPOSITORY / "tests" / "support" / "web_viewer.js"


class Nginx(Peer):
    """A proxy in front of the web door: its services lie below /pacs/edge."""

    name = "nginx"

    def __init__(self, directory: Path, behind: int) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.configuration = directory / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {directory}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.configuration.write_text(
            f"daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log; events {{}}\n"
            f"http {{ access_log off; client_max_body_size 0; {temporary}\n"
            f"server {{ listen 127.0.0.1:{self.port};\n"
            f"location /pacs/edge/ {{ proxy_pass http://127.0.0.1:{behind}/dicom-web/; proxy_http_version 1.1;\n"
            "proxy_request_buffering off; proxy_set_header Host $http_host;\n"
            "proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Forwarded-Prefix /pacs/edge; } } }\n"
        )

    def command(self) -> list[str]:
        return [find_program("nginx"), "-p", str(self.directory), "-c", str(self.configuration)]

    def is_ready(self) -> bool:
        return listens(self.pid, self.port)


class Site:
    """A gateway with a series of CT, and a proxy before it."""

    def __init__(self, edge: WebEdge, folder: Path) -> None:
        self.edge = edge
        self.files = ct_files(folder, 4, 20_000)
        assert edge.stow(*(path.read_bytes() for path in self.files)).status == 200
        edge.settle()
        first = pydicom.dcmread(self.files[0])
        self.first = first
        self.study, self.series, self.uid = first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID


@pytest.fixture(scope="module")
def site(edge: WebEdge, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(edge, tmp_path_factory.mktemp("viewers"))


@pytest.fixture(scope="module")
def proxied(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Nginx(tmp_path_factory.mktemp("nginx"), site.edge.web_port) as proxy:
        yield f"http://127.0.0.1:{proxy.port}/pacs/edge"


# -- recorded requests ------------------------------------------------------------------------------------------------

OCTETS = "multipart/related; type=application/octet-stream; transfer-syntax=*"
#: Method, path with {study}, {series}, {uid}, Accept, status and Content-Type: as the source of each sends them.
RECORDED = [
    # OHIF 3.11, the list of studies (DicomWebDataSource/qido.js) and a study's series
    ("/studies?limit=101&offset=0&fuzzymatching=false&includefield=00081030%2C00080060%2C00080090%2C00100030",
     "application/dicom+json", 200, "application/dicom+json"),
    ("/studies?PatientName=*Test*&00100020=*P*&StudyDescription=*&ModalitiesInStudy=CT&limit=101&offset=0"
     "&StudyDate=19700102-20991231&fuzzymatching=true&includefield=00081030", "application/dicom+json", 200,
     "application/dicom+json"),
    ("/studies?StudyInstanceUID={study}%5C1.2.3&limit=101&offset=0&includefield=00081030", "application/dicom+json",
     200, "application/dicom+json"),
    ("/studies/{study}/series?includefield=0008103E%2C00080021", "application/dicom+json", 200,
     "application/dicom+json"),
    ("/studies/{study}/series/{series}/instances?limit=1&includefield=00080018", "application/dicom+json", 200,
     "application/dicom+json"),
    ("/studies/{study}/series/{series}/metadata", "application/dicom+json", 200, "application/dicom+json"),
    # OHIF's thumbnails and direct URLs: the query parameter says what is accepted
    ("/studies/{study}/series/{series}/thumbnail?accept=image%2Fjpeg", "*/*", 200, "image/jpeg"),
    ("/studies/{study}/series/{series}/instances/{uid}/rendered?accept=image%2Fjpeg", "image/avif,image/webp,*/*",
     200, "image/jpeg"),
    ("/studies/{study}/series/{series}/instances/{uid}/thumbnail?viewport=256%2C256", "image/jpeg", 200, "image/jpeg"),
    ("/studies/{study}/series/{series}/instances/{uid}/rendered?accept=video/mp4", "*/*", 406, "text/plain"),
    # OHIF's generateAcceptHeader, with and without requestTransferSyntaxUID
    ("/studies/{study}/series/{series}/instances/{uid}/frames/1",
     'multipart/related; type="application/octet-stream"; transfer-syntax=*', 200, "multipart/related"),
    ("/studies/{study}/series/{series}/instances/{uid}/frames/1",
     'multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.80', 200, "multipart/related"),
    # cornerstone's dicomImageLoader (wadors/loadImage.ts), streaming and in ranges
    ("/studies/{study}/series/{series}/instances/{uid}/frames/1", OCTETS, 200, "multipart/related"),
    ("/studies/{study}/series/{series}/instances/{uid}/frames/1", "application/octet-stream", 200,
     "application/octet-stream"),
    # dicomweb-client (npm 0.11): objects, bulk data with several types
    ("/studies/{study}/series/{series}/instances/{uid}", 'multipart/related; type="application/dicom"', 200,
     "multipart/related"),
    ("/studies/{study}/series/{series}/instances/{uid}/bulkdata/7FE00010", 'multipart/related; '
     'type="application/octet-stream"', 200, "multipart/related"),
    ("/studies/{study}/series/{series}/instances/{uid}/rendered", "image/jpeg, image/gif, image/png, image/jp2", 200,
     "image/jpeg"),
    # OHIF #3990: metadata that accepts parts, too
    ("/studies/{study}/series/{series}/metadata",
     f"application/dicom+json, {OCTETS}", 200, "application/dicom+json"),
    # Weasis and dcm4che: whatever there is
    ("/studies/{study}", "multipart/related;type=application/dicom;transfer-syntax=*", 200, "multipart/related"),
    ("/studies/{study}/metadata", "multipart/related;type=application/dicom+xml", 200, "multipart/related"),
    ("/studies?orderby=-StudyDate%2C-StudyTime&limit=20", "application/dicom+json", 200, "application/dicom+json"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "accept", "status", "kind"), RECORDED)
def test_requests_as_viewers_send_them(site: Site, path: str, accept: str, status: int, kind: str) -> None:
    path = path.format(study=site.study, series=site.series, uid=site.uid)
    answer = site.edge.web("GET", path, {"Accept": accept, "Origin": ORIGIN, "Sec-Fetch-Mode": "cors"}, client="looker")
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (status, kind)
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    ("method", "headers"), [("GET", "authorization,range"), ("POST", "authorization,content-type")]
)
def test_what_a_browser_asks_before(site: Site, method: str, headers: str) -> None:
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    answer = site.edge.web("OPTIONS", f"/studies/{site.study}", ask, client="")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert method in answer.headers["access-control-allow-methods"]
    assert all(each in allowed for each in headers.split(","))
    others = site.edge.web("OPTIONS", "/studies", {**ask, "Origin": "https://evil.example.org"}, client="")
    assert "access-control-allow-origin" not in others.headers
    refused = site.edge.web("GET", "/studies", {"Origin": ORIGIN}, client="")
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)


# -- libraries --------------------------------------------------------------------------------------------------------


def test_dicomweb_client_of_python_in_full(site: Site, tmp_path: Path) -> None:
    url = site.edge.web_url
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer viewer-{TOKEN}"
        client = dicomweb_client.DICOMwebClient(url, session=session)
        of = (site.study, site.series, site.uid)
        assert len(client.search_for_studies(limit=5, fuzzymatching=False)) >= 1
        assert len(client.search_for_series(site.study, fields=["SeriesDescription"])) == 1
        assert len(client.search_for_instances(site.study, site.series)) == 4
        assert len(client.search_for_instances(search_filters={"SOPInstanceUID": site.uid})) == 1
        assert len(client.retrieve_study_metadata(site.study)) == 4
        assert len(client.retrieve_series_metadata(*of[:2])) == 4
        metadata = client.retrieve_instance_metadata(*of)
        assert metadata["00080018"]["Value"] == [site.uid]
        assert len(client.retrieve_study(site.study)) == 4
        assert len(client.retrieve_series(*of[:2])) == len(list(client.iter_series(*of[:2]))) == 4
        assert client.retrieve_instance(*of, media_types=(("application/dicom", "*"),)) == site.first
        compressed = client.retrieve_instance(*of, media_types=(("application/dicom", "1.2.840.10008.1.2.4.80"),))
        assert compressed.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.80"
        assert np.array_equal(compressed.pixel_array, site.first.pixel_array)
        (frame,) = client.retrieve_instance_frames(*of, [1])
        assert frame == site.first.pixel_array.tobytes()
        (bulk,) = client.retrieve_bulkdata(f"{url}/studies/{of[0]}/series/{of[1]}/instances/{of[2]}/bulkdata/7FE00010")
        assert bulk == site.first.PixelData
        picture = client.retrieve_instance_rendered(*of, media_types=("image/jpeg",), params={"quality": 90})
        assert picture[:2] == b"\xff\xd8"
        assert client.retrieve_instance_frames_rendered(*of, [1], media_types=("image/png",))[:4] == b"\x89PNG"
        (new,) = ct_files(tmp_path, 1, 4096)
        stored = client.store_instances([pydicom.dcmread(new)])
        assert [each.ReferencedSOPInstanceUID for each in stored.ReferencedSOPSequence] == [sop_instance_uid(new)]


def test_dicomweb_client_of_ohif_with_dcmjs_behind_a_proxy(site: Site, proxied: str, tmp_path: Path) -> None:
    (new,) = ct_files(tmp_path, 1, 4096)
    folder = node_modules()
    if not (folder / "dicomweb-client").exists():
        pytest.skip("dicomweb-client (npm) is not here: see packaging/test-packages")
    done = subprocess.run(
        [find_program("node"), str(VIEWER), proxied, f"viewer-{TOKEN}", site.study, site.series, site.uid, str(new)],
        env={**ENVIRONMENT, "PATH": os.environ["PATH"], "NODE_PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    pixels = len(site.first.PixelData)
    assert found.pop("studies")[:1]
    assert found == {
        "series": 1, "instances": 4, "nothing": [], "metadata": 4, "rows": site.first.Rows, "name": "Test^Patient",
        "studyMetadata": 4, "instanceMetadata": True, "uid": site.uid, "retrievedSeries": 4, "retrievedStudy": 4,
        "frame": len(site.first.pixel_array.tobytes()), "bulk": pixels, "bulkRange": found["bulkRange"], "jpeg": 0xFF,
        "png": ord("P"), "stored": 1,
    }  # fmt: skip
    assert found["bulkRange"] in (100, pixels)  # of parts there is no range


# -- a proxy ----------------------------------------------------------------------------------------------------------


def test_addresses_are_right_behind_a_proxy(site: Site, proxied: str) -> None:
    headers = {"Authorization": f"Bearer looker-{TOKEN}"}
    at = f"{proxied}/studies/{site.study}/series/{site.series}/metadata"
    first = requests.get(at, headers=headers, timeout=60).json()[0]
    bulk = requests.compat.urljoin(at, first["7FE00010"]["BulkDataURI"])
    assert bulk.startswith(f"{proxied}/studies/")
    answer = requests.get(bulk, headers={**headers, "Accept": "application/octet-stream"}, timeout=60)
    assert answer.content == site.first.PixelData
    part = {**headers, "Accept": "application/octet-stream", "Range": "bytes=10-19"}
    assert requests.get(bulk, headers=part, timeout=60).content == site.first.PixelData[10:20]
    again = {**headers, "Accept": "application/octet-stream", "If-None-Match": answer.headers["etag"]}
    assert requests.get(bulk, headers=again, timeout=60).status_code == 304
    (found,) = requests.get(f"{proxied}/studies?StudyInstanceUID={site.study}", headers=headers, timeout=60).json()
    assert found["00081190"]["Value"] == [f"{proxied.replace('http:', 'https:')}/studies/{site.study}"]
