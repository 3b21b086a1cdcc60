"""STOW-RS of metadata and bulk data: what is put together is the object, and what cannot be is named as failed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from edge.dicom.native_model import json_to_xml, xml_to_json
from edge.errors import Unreadable
from edge.scp.dicomweb.composed import MOST_METADATA
from tests.support.objects import ct_files, new_uid
from tests.support.web_door import Answer, WebEdge

JSON, XML = "application/dicom+json", "application/dicom+xml"
Parts = list[tuple[str, bytes]]


def send(edge: WebEdge, kind: str, parts: Parts, *, cut: int = 0) -> Answer:
    """`parts`: headers and content of each."""
    body = b"".join(b"--b\r\n%b\r\n\r\n%b\r\n" % (head.encode(), content) for head, content in parts) + b"--b--\r\n"
    head = {"Content-Type": f'multipart/related; type="{kind}"; boundary=b'}
    return edge.web("POST", "/studies", head, body[: len(body) - cut])


def make(folder: Path, **more: Any) -> pydicom.Dataset:
    ds = pydicom.dcmread(
        ct_files(
            folder,
            1,
            20_000,
            PatientID="C1",
            PatientName="Müller^Jörg=山田^太郎",
            SpecificCharacterSet="ISO_IR 192",
            **more,
        )[0]
    )
    item = pydicom.Dataset()
    item.CodeValue, item.CodeMeaning = "1", "täglich"
    ds.ProcedureCodeSequence = [item]
    ds.SliceThickness, ds.PixelSpacing = "0.625", [0.5, 0.25]
    ds.add_new(0x00280106, "US", 3)
    return ds


def in_json(ds: pydicom.Dataset, address: str = "bulk/1") -> dict[str, Any]:
    said = json.loads(ds.to_json(bulk_data_threshold=1 << 30))
    said["7FE00010"] = {"vr": "OW", "BulkDataURI": address}
    return said


def bulk(content: bytes, address: str = "bulk/1", kind: str = "application/octet-stream") -> tuple[str, bytes]:
    return f"Content-Type: {kind}\r\nContent-Location: {address}", content


def kept(edge: WebEdge, ds: pydicom.Dataset) -> pydicom.Dataset:
    edge.settle()
    found = edge.web(
        "GET",
        f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}",
        {"Accept": "application/dicom"},
    )
    return pydicom.dcmread(io.BytesIO(found.body))


@pytest.mark.parametrize("kind", [JSON, XML])
def test_metadata_and_bulk_data_become_the_object(edge: WebEdge, tmp_path: Path, kind: str) -> None:
    ds = make(tmp_path)
    said = in_json(ds)
    document = json.dumps([said]).encode() if kind == JSON else json_to_xml(said)
    answer = send(edge, kind, [(f"Content-Type: {kind}", document), bulk(ds.PixelData)])
    assert (answer.status, answer.stored()) == (200, [ds.SOPInstanceUID])
    found = kept(edge, ds)
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert found == ds


def test_texts_that_are_not_ascii_are_said_to_be_utf_8(edge: WebEdge, tmp_path: Path) -> None:
    """Also where the metadata does not say so, as texts of JSON are: else nobody could read whose image it is."""
    ds = make(tmp_path)
    said = in_json(ds)
    del said["00080005"]
    answer = send(edge, JSON, [(f"Content-Type: {JSON}", json.dumps([said]).encode()), bulk(ds.PixelData)])
    assert answer.status == 200
    found = kept(edge, ds)
    assert (found.SpecificCharacterSet, found.PatientName) == ("ISO_IR 192", "Müller^Jörg=山田^太郎")


@pytest.mark.parametrize("write_tag", [str.upper, str.lower])
def test_compressed_frames_are_a_part_each(edge: WebEdge, tmp_path: Path, write_tag: Callable[[str], str]) -> None:
    ds = make(tmp_path)
    pixels = np.arange(3 * 16 * 16, dtype="u2").reshape(3, 16, 16)
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.PixelData = 16, 16, 3, pixels.tobytes()
    ds.SOPInstanceUID = new_uid()
    said = in_json(ds)
    ds.compress(RLELossless, pixels, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    frames = [bytes(each) for each in pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=3)]
    written = {write_tag(tag): each for tag, each in said.items()}
    parts = [(f"Content-Type: {JSON}", json.dumps(written).encode())]
    parts += [bulk(each, kind=f"image/dicom-rle; transfer-syntax={RLELossless}") for each in frames]
    answer = send(edge, JSON, parts)
    assert (answer.status, answer.stored()) == (200, [ds.SOPInstanceUID])
    assert np.array_equal(kept(edge, ds).pixel_array, pixels)


def test_what_lacks_its_bulk_data_fails_alone(edge: WebEdge, tmp_path: Path) -> None:
    good, bad = make(tmp_path / "a"), make(tmp_path / "b")
    document = json.dumps([in_json(good), in_json(bad, "bulk/nowhere")]).encode()
    answer = send(edge, JSON, [(f"Content-Type: {JSON}", document), bulk(good.PixelData)])
    assert (answer.status, answer.stored()) == (202, [good.SOPInstanceUID])
    assert answer.failed() == {bad.SOPInstanceUID: 0xC000}


def test_of_a_cut_body_nothing_is_stored(edge: WebEdge, tmp_path: Path) -> None:
    """Not even what was complete: metadata says what belongs together."""
    one, two = make(tmp_path / "a"), make(tmp_path / "b")
    document = json.dumps([in_json(one, "bulk/1"), in_json(two, "bulk/2")]).encode()
    parts = [(f"Content-Type: {JSON}", document), bulk(one.PixelData, "bulk/1"), bulk(two.PixelData, "bulk/2")]
    for cut in (3, 500):
        answer = send(edge, JSON, parts, cut=cut)
        assert (answer.status, answer.stored()) == (400, [])
    assert edge.web("GET", f"/studies/{one.StudyInstanceUID}").status == 404


DEEP = '{"00081032":{"vr":"SQ","Value":[' * 5000
XML_HEAD = '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'


@pytest.mark.parametrize(
    ("kind", "document", "status"),
    [
        (JSON, b"", 400),
        (JSON, b"[1, 2]", 400),
        (JSON, b'[{"00080018": 7}]', 400),
        (JSON, (DEEP + "]}}" * 5000).encode(), 400),
        (JSON, b"{" * 100_000, 400),
        (JSON, b'[{"00080018": {"vr": "UI", "Value": ["1.2.3"]}}]', 409),
        (JSON, b'[{"nothing": {"vr": "UI"}}]', 409),
        (JSON, b'[{"00280010": {"vr": "US", "Value": [70000]}}]', 409),
        (JSON, b'[{"00281052": {"vr": "DS", "Value": [{}]}}]', 409),
        (XML, b"<html/>", 400),
        (XML, b"<!DOCTYPE a [<!ENTITY b 'c'>]><NativeDicomModel>&b;</NativeDicomModel>", 400),
        (XML, (XML_HEAD + "<Item>" * 1000).encode(), 400),
        (JSON, b" " * (MOST_METADATA + 1), 413),
    ],
)
def test_metadata_that_is_none_and_the_door_lives(edge: WebEdge, kind: str, document: bytes, status: int) -> None:
    assert send(edge, kind, [(f"Content-Type: {kind}", document)]).status == status
    assert edge.web("GET", "/studies?limit=1").status in (200, 204)


def test_xml_there_and_back(tmp_path: Path) -> None:
    said = in_json(make(tmp_path))
    back = xml_to_json(json_to_xml(said))
    texts = json.loads(json.dumps(said), parse_int=str, parse_float=str)
    assert {tag: each.get("vr") for tag, each in back.items()} == {tag: each["vr"] for tag, each in said.items()}
    assert back["00100010"] == said["00100010"]
    assert back["7FE00010"] == said["7FE00010"]
    assert back["00280030"]["Value"] == texts["00280030"]["Value"]
    with pytest.raises(Unreadable):
        xml_to_json(b"<NativeDicomModel><Dicom")
