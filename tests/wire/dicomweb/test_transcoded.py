"""WADO-RS in another form than the kept one: transfer syntaxes, frames, pictures, XML, values inside sequences."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from edge.dicom.part10 import parse_meta
from tests.support.objects import ct_files, new_uid, part10
from tests.support.peers import wait_until
from tests.support.web_door import Answer, WebEdge

ELE, RLE, JPEG_LS, JPEG_2000 = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
)
DICOM_PARTS = 'multipart/related; type="application/dicom"; transfer-syntax='
OCTET_PARTS = 'multipart/related; type="application/octet-stream"'


class Kept:
    """A gateway with one study: CT as it came, RLE of three frames, a deflated one, a lossy JPEG in colour."""

    def __init__(self, edge: WebEdge, folder: Path) -> None:
        self.edge = edge
        self.ct = pydicom.dcmread(ct_files(folder, 1, 20_000)[0])
        self.pixels = np.random.default_rng(7).integers(0, 4000, (3, 32, 40)).astype("u2")
        self.rle = self._like(self.pixels, "CT")
        self.deflated = self._like(self.pixels[0], "CT")
        self.deflated["PixelData"].VR = "OW"
        self.colour = self._colour()
        rle = pydicom.dcmread(io.BytesIO(part10(self.rle, ExplicitVRLittleEndian)))
        rle.compress(RLELossless, self.pixels, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        files = [
            part10(self.ct, ExplicitVRLittleEndian),
            part10(rle, RLELossless),
            part10(self.deflated, DeflatedExplicitVRLittleEndian),
            part10(self.colour, JPEGBaseline8Bit),
        ]
        answer = edge.stow(*files)
        assert answer.status == 200, answer.body
        edge.settle()
        self.study = f"/studies/{self.ct.StudyInstanceUID}"

    def _like(self, pixels: np.ndarray, modality: str) -> pydicom.Dataset:
        ds = pydicom.Dataset()
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
            setattr(ds, keyword, getattr(self.ct, keyword))
        ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.7.3", new_uid(), new_uid()
        ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation = modality, 1, "MONOCHROME2"
        ds.Rows, ds.Columns = pixels.shape[-2:]
        ds.NumberOfFrames = len(pixels) if pixels.ndim == 3 else 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.WindowCenter, ds.WindowWidth = 2000, 4000
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OW"
        table = pydicom.Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [6000, 0, 16], "US"
        table.add_new(0x00283006, "OW", np.arange(6000, dtype="<u2").tobytes())
        outer = pydicom.Dataset()
        outer.ModalityLUTSequence = [pydicom.Dataset(), table]
        outer.ModalityLUTSequence[0].ModalityLUTType = "US"
        ds.SharedFunctionalGroupsSequence = [outer]
        return ds

    def _colour(self) -> pydicom.Dataset:
        ds = self._like(np.zeros((32, 40), "u2"), "OT")
        picture = np.zeros((32, 40, 3), "u1")
        picture[..., 0] = 200
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "jpeg", quality=95)
        ds.SOPClassUID, ds.SamplesPerPixel, ds.PlanarConfiguration = "1.2.840.10008.5.1.4.1.1.7.4", 3, 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation = 8, 8, 7, "YBR_FULL_422"
        ds.PixelData = encapsulate([out.getvalue()])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        return ds

    def at(self, ds: pydicom.Dataset, below: str = "") -> str:
        return f"{self.study}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}{below}"

    def get(self, path: str, accept: str = "", **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.edge.web("GET", path, {**given, **({"Accept": accept} if accept else {})}, client="looker")


@pytest.fixture(scope="module")
def kept(edge: WebEdge, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(edge, tmp_path_factory.mktemp("transcoded"))


def parts(answer: Answer) -> list[tuple[str, bytes]]:
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    assert answer.body.endswith(b"\r\n--" + boundary + b"--\r\n")
    pieces = (each.partition(b"\r\n\r\n") for each in answer.body.split(b"\r\n--" + boundary)[1:-1])
    return [(head.decode().partition(": ")[2].strip(), body) for head, _, body in pieces]


# -- whole objects ----------------------------------------------------------------------------------------------------


def test_a_study_in_the_transfer_syntax_that_the_caller_takes(kept: Kept) -> None:
    answer = kept.get(kept.study, DICOM_PARTS + ELE)
    assert (answer.status, answer.headers["transfer-encoding"]) == (200, "chunked")
    found = parts(answer)
    assert {each for each, _ in found} == {f"application/dicom; transfer-syntax={ELE}"}
    came = {str((ds := pydicom.dcmread(io.BytesIO(body))).SOPInstanceUID): ds for _, body in found}
    assert {str(each.file_meta.TransferSyntaxUID) for each in came.values()} == {ELE}
    assert np.array_equal(came[kept.rle.SOPInstanceUID].pixel_array, kept.pixels)
    assert np.array_equal(came[kept.deflated.SOPInstanceUID].pixel_array, kept.pixels[0])
    assert came[kept.ct.SOPInstanceUID] == kept.ct
    wait_until(lambda: not list(kept.edge.data_dir.rglob("retrieval-*")), 5, "the copies are gone")


@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, JPEG_2000])
def test_one_object_in_a_lossless_compression(kept: Kept, syntax: str) -> None:
    answer = kept.get(kept.at(kept.deflated), f"application/dicom; transfer-syntax={syntax}")
    assert (answer.status, answer.headers["content-type"]) == (200, f"application/dicom; transfer-syntax={syntax}")
    ds = pydicom.dcmread(io.BytesIO(answer.body))
    assert (str(ds.file_meta.TransferSyntaxUID), np.array_equal(ds.pixel_array, kept.pixels[0])) == (syntax, True)
    part = kept.get(kept.at(kept.deflated), f"application/dicom; transfer-syntax={syntax}", Range="bytes=0-131")
    assert (part.status, part.body) == (206, answer.body[:132])


@pytest.mark.parametrize(
    ("accept", "syntax"),
    [
        (DICOM_PARTS + "*", RLE),
        (DICOM_PARTS + RLE, RLE),
        (f"{DICOM_PARTS}{JPEG_LS}, {DICOM_PARTS}{RLE}", RLE),  # equally dear: as it is kept
        (f"{DICOM_PARTS}{JPEG_LS}, {DICOM_PARTS}{RLE}; q=0.5", JPEG_LS),
        (f"{DICOM_PARTS}1.2.840.10008.1.2.4.50, {DICOM_PARTS}{ELE}; q=0.1", ELE),  # nothing becomes lossy
    ],
)
def test_the_dearest_that_can_be_had(kept: Kept, accept: str, syntax: str) -> None:
    ((content_type, body),) = parts(kept.get(kept.at(kept.rle), accept))
    assert content_type == f"application/dicom; transfer-syntax={syntax}"
    assert parse_meta(body[:65536]).context_key.transfer_syntax_uid == syntax


def test_of_a_copy_that_nobody_reads_nothing_is_left(kept: Kept) -> None:
    as_rle = {"Accept": f"application/dicom; transfer-syntax={RLE}"}
    answer = kept.edge.web("HEAD", kept.at(kept.ct), as_rle, client="looker")
    assert (answer.status, answer.body) == (200, b"")
    beyond = kept.get(kept.at(kept.ct), as_rle["Accept"], Range="bytes=99999999-")
    assert beyond.status == 416
    wait_until(lambda: not list(kept.edge.data_dir.rglob("retrieval-*")), 5, "the copies are gone")


def test_what_cannot_be_had_without_loss_is_406(kept: Kept) -> None:
    assert kept.get(kept.at(kept.ct), DICOM_PARTS + "1.2.840.10008.1.2.4.50").status == 406
    assert kept.get(kept.study, DICOM_PARTS + "1.2.840.10008.1.2.4.102").status == 406


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [OCTET_PARTS, f"{OCTET_PARTS}; transfer-syntax={ELE}"])
def test_frames_of_a_compressed_object_without_compression(kept: Kept, accept: str) -> None:
    answer = kept.get(kept.at(kept.rle, "/frames/3,1"), accept)
    kind = f"application/octet-stream; transfer-syntax={ELE}"
    assert parts(answer) == [(kind, kept.pixels[2].tobytes()), (kind, kept.pixels[0].tobytes())]


@pytest.mark.parametrize(("kind", "syntax"), [("image/jls", JPEG_LS), ("image/jp2", JPEG_2000)])
def test_a_frame_in_a_lossless_compression(kept: Kept, kind: str, syntax: str) -> None:
    answer = kept.get(kept.at(kept.rle, "/frames/2"), f'multipart/related; type="{kind}"')
    ((content_type, frame),) = parts(answer)
    assert content_type == f"{kind}; transfer-syntax={syntax}"
    from pydicom.pixels.decoders.base import get_decoder

    found, _ = get_decoder(syntax).as_array(
        encapsulate([frame]), rows=32, columns=40, samples_per_pixel=1, bits_allocated=16, bits_stored=12,
        pixel_representation=0, photometric_interpretation="MONOCHROME2", number_of_frames=1, pixel_keyword="PixelData",
    )  # fmt: skip
    assert np.array_equal(found, kept.pixels[1])


def test_a_frame_alone_and_in_ranges(kept: Kept) -> None:
    whole = kept.get(kept.at(kept.rle, "/frames/2"), "application/octet-stream")
    assert (whole.status, whole.body) == (200, kept.pixels[1].tobytes())
    part = kept.get(kept.at(kept.rle, "/frames/2"), "application/octet-stream", Range="bytes=10-19")
    assert (part.status, part.body) == (206, whole.body[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.body)}"
    etag = whole.headers["etag"]
    assert kept.get(kept.at(kept.rle, "/frames/2"), "application/octet-stream", If_None_Match=etag).status == 304
    assert kept.get(kept.at(kept.rle, "/frames/2"), OCTET_PARTS, If_None_Match=etag).status == 200


def test_frames_of_a_deflated_object(kept: Kept) -> None:
    ((_, frame),) = parts(kept.get(kept.at(kept.deflated, "/frames/1"), f"{OCTET_PARTS}; transfer-syntax=*"))
    assert frame == kept.pixels[0].tobytes()
    assert kept.get(kept.at(kept.deflated, "/frames/2")).status == 404


def test_a_value_that_is_too_long_to_be_inflated_is_never_cut_short(kept: Kept) -> None:
    ds = kept._like(np.zeros((1100, 1000), "u2"), "CT")
    ds["PixelData"].VR = "OW"
    assert kept.edge.stow(part10(ds, DeflatedExplicitVRLittleEndian)).status == 200
    bulk = kept.get(kept.at(ds, "/bulkdata/7FE00010"), "application/octet-stream")
    assert (bulk.status, b"ask for frames" in bulk.body) == (404, True)
    assert len(kept.get(kept.at(ds, "/frames/1"), "application/octet-stream").body) == 2_200_000


def test_a_lossy_colour_frame_once_decoded_is_what_the_metadata_says(kept: Kept) -> None:
    as_kept = kept.get(kept.at(kept.colour, "/frames/1"), "image/jpeg")
    assert (as_kept.status, as_kept.body[:2]) == (200, b"\xff\xd8")
    ((_, frame),) = parts(kept.get(kept.at(kept.colour, "/frames/1"), OCTET_PARTS))
    (metadata,) = kept.get(kept.at(kept.colour, "/metadata"), "application/dicom+json").json()
    put_together = pydicom.Dataset.from_json({tag: metadata[tag] for tag in metadata if tag.startswith("0028")})
    put_together.file_meta = pydicom.dataset.FileMetaDataset()
    put_together.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    put_together.PixelData = frame
    assert put_together.PhotometricInterpretation == "YBR_FULL_422"
    assert len(frame) == 32 * 40 * 2
    assert np.abs(pixel_array(put_together, raw=False).astype(int) - (200, 0, 0)).max() <= 6
    assert kept.get(kept.at(kept.colour, "/frames/1"), "image/jls").status == 406


def test_bulk_data_of_compressed_pixels_without_compression(kept: Kept) -> None:
    answer = kept.get(kept.at(kept.rle, "/bulkdata/7FE00010"), OCTET_PARTS)
    assert [body for _, body in parts(answer)] == [each.tobytes() for each in kept.pixels]


# -- pictures ---------------------------------------------------------------------------------------------------------


def picture(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.asarray(Image.open(io.BytesIO(answer.body)))


def test_a_picture_is_jpeg_unless_png_alone_is_accepted(kept: Kept) -> None:
    at = kept.at(kept.rle, "/rendered")
    for accept, kind in [("", "image/jpeg"), ("image/*", "image/jpeg"), ("image/png", "image/png")]:
        answer = kept.get(at, accept)
        assert answer.headers["content-type"] == kind
        assert picture(answer).shape == (32, 40)
    assert kept.get(f"{at}?accept=image/png").headers["content-type"] == "image/png"
    lossless = picture(kept.get(at, "image/png")).astype(int)
    fine, coarse = (picture(kept.get(f"{at}?quality={each}")).astype(int) for each in (95, 5))
    assert np.abs(fine - lossless).mean() < 3 < np.abs(coarse - lossless).mean()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("linear", lambda x: (x - 999.5) / 1999 + 0.5),
        ("linear-exact", lambda x: (x - 1000) / 2000 + 0.5),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-4 * (x - 1000) / 2000))),
    ],
)
def test_the_functions_of_a_window(kept: Kept, function: str, expected: object) -> None:
    found = picture(kept.get(kept.at(kept.rle, f"/frames/2/rendered?window=1000,2000,{function}"), "image/png"))
    wanted = np.clip(expected(kept.pixels[1].astype("f8")) * 255, 0, 255)  # type: ignore[operator]
    assert np.abs(found - wanted).max() <= 1


def test_a_picture_that_the_caller_has_is_304_and_another_view_is_not(kept: Kept) -> None:
    path = kept.at(kept.rle, "/frames/2/rendered")
    etag = kept.get(path, "image/png").headers["etag"]
    again = kept.get(path, "image/png", If_None_Match=etag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    others = (
        (path, "image/jpeg"),
        (f"{path}?window=100,50,linear", "image/png"),
        (kept.at(kept.rle, "/rendered"), "image/png"),
    )
    assert [kept.get(*each, If_None_Match=etag).status for each in others] == [200, 200, 200]


def test_a_viewport_with_a_region(kept: Kept) -> None:
    at = kept.at(kept.rle, "/rendered")
    assert picture(kept.get(f"{at}?viewport=20,20")).shape == (16, 20)  # fits within both
    assert picture(kept.get(f"{at}?viewport=40,8")).shape == (8, 10)
    whole = picture(kept.get(at, "image/png"))
    region = picture(kept.get(f"{at}?viewport=40,40,8,4,16,10", "image/png"))
    assert np.array_equal(region, whole[4:14, 8:24])
    assert kept.get(f"{at}?viewport=40,40,900,4,16,10").status == 406


@pytest.mark.parametrize(
    "query",
    ["viewport=0,5", "viewport=5", "viewport=5,5,1", "window=1,0,linear", "window=1,2,cubic", "quality=0", "quality=x"],
)
def test_parameters_that_make_no_sense(kept: Kept, query: str) -> None:
    assert kept.get(kept.at(kept.rle, f"/rendered?{query}")).status == 400


def test_several_frames_and_series_are_parts(kept: Kept) -> None:
    answer = kept.get(kept.at(kept.rle, "/frames/1,3/rendered"))
    assert [each for each, _ in parts(answer)] == ["image/jpeg", "image/jpeg"]
    assert answer.headers["content-type"].startswith('multipart/related; type="image/jpeg"')
    series = kept.get(
        f"{kept.study}/series/{kept.rle.SeriesInstanceUID}/rendered", 'multipart/related; type="image/png"'
    )
    assert [each for each, _ in parts(series)] == ["image/png"]
    warned = kept.get(kept.at(kept.rle, "/rendered?annotation=patient"))
    assert "annotation" in warned.headers["warning"]


# -- metadata ---------------------------------------------------------------------------------------------------------


def test_metadata_in_xml_says_what_json_says(kept: Kept) -> None:
    at = kept.at(kept.rle, "/metadata")
    (json,) = kept.get(at).json()
    answer = kept.get(at, 'multipart/related; type="application/dicom+xml"')
    ((content_type, document),) = parts(answer)
    assert (answer.status, content_type) == (200, "application/dicom+xml")
    space = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    found = {each.get("tag"): each for each in ElementTree.fromstring(document)}
    assert found.keys() == json.keys()
    assert found["00100010"].findtext(f"{space}PersonName/{space}Alphabetic/{space}FamilyName") == "Test"
    assert found["00280010"].findtext(f"{space}Value") == "32"
    assert found["7FE00010"].find(f"{space}BulkData").get("uri") == "bulkdata/7FE00010"  # type: ignore[union-attr]


def test_long_values_inside_sequences_have_addresses(kept: Kept) -> None:
    for ds in (kept.rle, kept.deflated):
        (found,) = kept.get(kept.at(ds, "/metadata")).json()
        (group,) = found["52009229"]["Value"]
        table = group["00283000"]["Value"][1]["00283006"]
        assert table == {"vr": "OW", "BulkDataURI": "bulkdata/52009229/1/00283000/2/00283006"}
        answer = kept.get(kept.at(ds, f"/{table['BulkDataURI']}"), "application/octet-stream")
        assert answer.body == np.arange(6000, dtype="<u2").tobytes()
        assert kept.get(kept.at(ds, "/bulkdata/52009229/1/00283000/3/00283006")).status == 404
        assert kept.get(kept.at(ds, "/bulkdata/52009229/1/00283000")).status in (404, 200)
