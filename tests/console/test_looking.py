"""A quick look at images: what can be shown is, what cannot says why, and each look is in the ledger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from playwright.sync_api import Browser, expect
from pydicom import pixels as reference
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from edge.dicom import part10
from edge.errors import TransformError
from edge.transform import Transcoder
from edge.transform.lookup import expand_segments
from edge.transform.view import RenderedFrame, View
from tests.support.browser import chromium, listening
from tests.support.console_site import ConsoleSite
from tests.support.objects import ct_files
from tests.support.objects import part10 as encode_file
from tests.support.peers import wait_until
from tests.support.pictures import decode_png


@pytest.fixture(scope="module")
def transcoder() -> Iterator[Transcoder]:
    made = Transcoder(workers=1, timeout=30)
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleSite]:
    """A study of five images."""
    with ConsoleSite(tmp_path_factory.mktemp("site")) as made:
        for path in ct_files(made.tmp_path / "five", 5, 16 * 1024, PatientName="Zebrafink^Zoe"):
            made.accept(path.read_bytes())
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


# -- frames ------------------------------------------------------------------------------------------------------------


def draw(transcoder: Transcoder, path: Path, **how: Any) -> RenderedFrame:
    meta = part10.parse_meta(path.read_bytes()[: part10.MAX_META])
    return transcoder.render(path, meta.dataset_offset, meta.context_key.transfer_syntax_uid, View(**how))


def write(path: Path, pixels: Any, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> Path:
    """An object with these pixels: (rows, columns), (frames, rows, columns) or (rows, columns, 3)."""
    [path] = ct_files(path, 1, 1024)
    ds = pydicom.dcmread(path)
    for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        if keyword in ds:
            delattr(ds, keyword)
    is_colour = pixels.ndim == 3 and pixels.shape[2] == 3
    ds.NumberOfFrames = pixels.shape[0] if pixels.ndim == 3 and not is_colour else 1
    ds.Rows, ds.Columns = pixels.shape[:2] if pixels.ndim == 2 or is_colour else pixels.shape[1:3]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if is_colour else (1, "MONOCHROME2")
    if is_colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax)
    ds.save_as(path)
    return path


RAMP = np.arange(4096, dtype="u2").reshape(64, 64)


def test_a_window_is_what_the_standard_says(transcoder: Transcoder, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a", RAMP, RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=[40, 300], WindowWidth="400"
    )
    found = draw(transcoder, path)
    assert (found.center, found.width, found.frames, found.is_colour) == (40.0, 400.0, 1, False)
    values = RAMP.astype("f8") - 1024
    expected = np.clip((values - (40 - 200)) * 255 / 400, 0, 255)
    assert np.abs(decode_png(found.data) - expected).max() <= 1
    narrow = draw(transcoder, path, window=(0, 2))
    assert set(np.unique(decode_png(narrow.data))) <= {0, 127, 128, 255}
    threshold = draw(transcoder, path, window=(40, 1))
    assert np.array_equal(decode_png(threshold.data), np.where(values > 39.5, 255, 0))
    inverse = write(tmp_path / "b", RAMP, PhotometricInterpretation="MONOCHROME1")
    plain = write(tmp_path / "c", RAMP)
    assert np.array_equal(decode_png(draw(transcoder, inverse).data), 255 - decode_png(draw(transcoder, plain).data))


def table_item(first: int, bits: int, values: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.add_new(0x00283002, "US", [len(values), first, bits])
    item.add_new(0x00283006, "OW", np.asarray(values, "<u2").tobytes())
    return item


def test_lookup_tables_are_applied_as_pydicom_does(transcoder: Transcoder, tmp_path: Path) -> None:
    inverse = (65535 - np.arange(0, 65536, 64)).astype("u2")
    modality = write(tmp_path / "m", RAMP % 1024, ModalityLUTSequence=[table_item(0, 16, inverse)])
    found = draw(transcoder, modality, window=(32768, 65536))
    expected = reference.apply_modality_lut(RAMP % 1024, pydicom.dcmread(modality)).astype("f8") * 255 / 65536
    assert np.abs(decode_png(found.data) - expected).max() <= 1
    curve = (np.linspace(0, 1, 3000) ** 2 * 4095).astype("u2")
    voi = write(tmp_path / "v", RAMP, VOILUTSequence=[table_item(500, 12, curve), table_item(0, 12, curve[::-1])])
    expected = reference.apply_voi_lut(RAMP, pydicom.dcmread(voi), index=0).astype("f8") * 255 / 4095
    assert np.abs(decode_png(draw(transcoder, voi).data) - expected).max() <= 1
    flat = draw(transcoder, voi, window=(2048, 4096))  # what a person asks for comes first
    assert np.abs(decode_png(flat.data) - RAMP.astype("f8") * 255 / 4096).max() <= 1
    sigmoid = write(tmp_path / "s", RAMP, WindowCenter=2048, WindowWidth=2000, VOILUTFunction="SIGMOID")
    expected = reference.apply_windowing(RAMP, pydicom.dcmread(sigmoid)) * 255 / 65535
    assert np.abs(decode_png(draw(transcoder, sigmoid).data) - expected).max() <= 1


def test_a_segmented_palette_is_applied_as_pydicom_does(transcoder: Transcoder, tmp_path: Path) -> None:
    words = [0, 1, 0, 1, 127, 65280, 0, 2, 512, 1024, 1, 126, 60000]  # discrete, linear, discrete, linear
    path = write(tmp_path / "p", (RAMP % 256).astype("u1"), PhotometricInterpretation="PALETTE COLOR")
    ds = pydicom.dcmread(path)
    for tag, data in zip((0x00281221, 0x00281222, 0x00281223), (words, words, words), strict=True):
        ds.add_new(tag - 0x120, "US", [256, 0, 16])
        ds.add_new(tag, "OW", np.asarray(data, "<u2").tobytes())
    ds.save_as(path)
    used_again = [0, 1, 256, 1, 3, 30000, 2, 1, 6, 0]  # by its offset in bytes: 6, the linear segment
    expanded = np.frombuffer(expand_segments(np.asarray(used_again, "<u2").tobytes(), 7), "<u2")
    assert list(expanded) == [256, 10171, 20085, 30000, 30000, 30000, 30000]
    expected = reference.apply_color_lut((RAMP % 256).astype("u1"), pydicom.dcmread(path)) >> 8
    assert np.abs(decode_png(draw(transcoder, path).data).astype("i4") - expected).max() <= 1


def test_without_a_window_the_values_can_be_seen(transcoder: Transcoder, tmp_path: Path) -> None:
    pixels = np.full((64, 64), -2000, "i2")
    pixels[16:48, 16:48] = np.arange(1024).reshape(32, 32)
    path = write(tmp_path / "a", pixels)
    ds = pydicom.dcmread(path)
    ds.add_new(0x00280120, "SS", -2000)
    ds.save_as(path)
    found = draw(transcoder, path)
    assert 0 <= found.center - found.width / 2 < 20  # what pads the image is not counted
    assert 1000 < found.center + found.width / 2 <= 1024


def test_a_sign_that_fills_its_own_bits_alone_is_a_sign(transcoder: Transcoder, tmp_path: Path) -> None:
    values = np.linspace(-1000, 2000, 64 * 64).astype("i2").reshape(64, 64)
    path = write(tmp_path / "a", values & 0x0FFF, BitsStored=12, HighBit=11)
    found = draw(transcoder, path)
    assert (found.lowest, found.highest) == (-1000, 2000)


def test_a_narrow_window_that_the_values_give_spans_them(transcoder: Transcoder, tmp_path: Path) -> None:
    path = write(tmp_path / "a", RAMP % 4, RescaleSlope="0.5", RescaleIntercept="0")
    assert np.abs(decode_png(draw(transcoder, path).data) - (RAMP % 4) * 85.0).max() <= 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_one_frame_of_many(transcoder: Transcoder, tmp_path: Path, syntax: str) -> None:
    pixels = np.stack([RAMP[::2, ::2] + number * 100 for number in range(5)])
    path = write(tmp_path / "a", pixels, syntax)
    for frame in (1, 4, 5):
        found = draw(transcoder, path, frame=frame, window=(2048, 4096))
        expected = np.clip(pixels[frame - 1].astype("f8") * 255 / 4096, 0, 255)
        assert found.frames == 5
        assert np.abs(decode_png(found.data) - expected).max() <= 1
    with pytest.raises(TransformError, match="no frame 6"):
        draw(transcoder, path, frame=6)


def test_single_bits_that_begin_inside_a_byte(transcoder: Transcoder, tmp_path: Path) -> None:
    bits = (np.arange(3 * 5 * 7) * 7 % 3 == 0).astype("u1").reshape(3, 5, 7)
    path = write(tmp_path / "a", bits)
    ds = pydicom.dcmread(path)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    ds.PixelData = packed + bytes(len(packed) % 2)
    ds.save_as(path)
    for frame in (1, 2, 3):
        found = draw(transcoder, path, frame=frame, window=(0.5, 1))
        assert np.array_equal(decode_png(found.data) > 127, bits[frame - 1] > 0)


def test_colour_and_palette(transcoder: Transcoder, tmp_path: Path) -> None:
    colour = np.stack([RAMP % 256, RAMP // 16, 255 - RAMP % 256], axis=-1).astype("u1")
    found = draw(transcoder, write(tmp_path / "a", colour))
    assert found.is_colour
    assert np.array_equal(decode_png(found.data), colour)
    index = (RAMP % 4).astype("u1")
    path = write(tmp_path / "b", index, PhotometricInterpretation="PALETTE COLOR")
    ds = pydicom.dcmread(path)
    for number, table in enumerate(([0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255])):
        ds.add_new(0x00281101 + number, "US", [4, 0, 16])
        ds.add_new(0x00281201 + number, "OW", (np.array(table, "<u2") * 257).tobytes())
    ds.save_as(path)
    shown = decode_png(draw(transcoder, path).data)
    assert np.array_equal(shown[0, :4], [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])


def test_a_thumbnail_is_small_and_the_mean(transcoder: Transcoder, tmp_path: Path) -> None:
    pixels = np.zeros((300, 200), "u2")
    pixels[::2, ::2] = 400
    shown = decode_png(draw(transcoder, write(tmp_path / "a", pixels), side=160, window=(200, 400)).data)
    assert shown.shape == (150, 100)
    assert np.abs(shown.astype(int) - 63).max() <= 1


def test_what_has_no_picture_says_why(transcoder: Transcoder, tmp_path: Path) -> None:
    path = write(tmp_path / "a", RAMP)
    ds = pydicom.dcmread(path)
    del ds.PixelData
    ds.save_as(path)
    with pytest.raises(TransformError, match="no image: its content is text"):
        draw(transcoder, path)
    whole = write(tmp_path / "b", RAMP).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-100])
    with pytest.raises(TransformError, match="longer than what holds it"):
        draw(transcoder, tmp_path / "cut.dcm")
    ds = pydicom.dcmread(write(tmp_path / "c", RAMP))
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    ds.PixelData = encapsulate([b"\0\0\0\x18ftypmp42" * 4])
    ds["PixelData"].VR = "OB"
    ds.save_as(tmp_path / "video.dcm")
    with pytest.raises(TransformError, match="it is a video"):
        draw(transcoder, tmp_path / "video.dcm")


# -- pages -------------------------------------------------------------------------------------------------------------


def test_a_study_shows_its_series(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "operator")
    heard = listening(page)
    looks = len(site.ledger("viewed"))
    page.goto(f"{site.url}/studies/1")
    thumbs = page.locator(".thumbs img")
    expect(thumbs).to_have_count(1)
    shown = "img => img.complete && img.naturalWidth"
    wait_until(lambda: thumbs.first.evaluate(shown), 20, "the thumbnail is there")
    page.locator(".thumbs a").first.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Quick look")
    expect(page.get_by_text("Not for diagnosis.", exact=True)).to_be_visible()
    large = page.locator(".look-frame img")
    wait_until(lambda: large.evaluate(shown), 20, "the image is there")
    rows = [row[3] for row in site.ledger("viewed")[looks:]]
    assert [row for row in rows if row.startswith("its images")] == ["its images, from 127.0.0.1"]
    before = large.get_attribute("src")
    page.get_by_label("Window center").fill("100")
    wait_until(lambda: large.get_attribute("src") != before, 10, "another window")
    box = large.bounding_box()
    assert box
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 20, steps=4)
    page.mouse.up()
    assert page.get_by_label("Window center").input_value() != "100"
    page.get_by_role("link", name="Next image").press("Enter")
    expect(page.get_by_text("Image 4 of 5")).to_be_visible()
    assert not heard


def test_a_ct_slice_is_drawn_whole(site: ConsoleSite) -> None:
    [path] = ct_files(site.tmp_path / "full", 1, 512 * 1024, PatientName="Zebrafink^Zoe")
    site.accept(path.read_bytes())
    answer = site.person("operator").get(f"/instances/{site.one('SELECT max(id) FROM instance')}/frame.png")
    assert answer.headers["content-type"] == "image/png"
    assert decode_png(answer.content).shape == (512, 512)


def test_a_file_that_is_there_again_has_its_picture(site: ConsoleSite) -> None:
    [path] = ct_files(site.tmp_path / "again", 1, 16 * 1024, PatientName="Zebrafink^Zoe")
    site.accept(path.read_bytes())
    number, where = site.one("SELECT max(id) FROM instance"), "SELECT path FROM instance ORDER BY id DESC LIMIT 1"
    operator, spooled = site.person("operator"), site.spool.path_of(site.one(where))

    def look() -> str:
        return operator.get(f"/instances/{number}/frame.png").headers["content-type"].partition(";")[0]

    whole = spooled.read_bytes()
    spooled.rename(site.tmp_path / "away")
    assert look() == "image/svg+xml"
    (site.tmp_path / "away").rename(spooled)
    assert look() == "image/png"
    for content, shown in ((whole[:-100], "image/svg+xml"), (whole, "image/png")):  # damaged, and fetched again
        (site.tmp_path / "other").write_bytes(content)
        (site.tmp_path / "other").rename(spooled)
        assert look() == shown


def test_only_who_sees_patients_sees_images(site: ConsoleSite) -> None:
    viewer = site.person("viewer")
    assert viewer.get("/instances/1").status_code == 403
    assert viewer.get("/instances/1/frame.png").status_code == 403
    assert "frame.png" not in viewer.get("/studies/1").text
    operator = site.person("operator")
    assert operator.get("/instances/999999").status_code == 404
    assert operator.get("/instances/1?center=nan&width=-1&frame=0&side=99999999999").status_code == 200


def test_a_conflict_shows_both_images(site: ConsoleSite) -> None:
    [path] = ct_files(site.tmp_path / "first", 1, 16 * 1024, PatientName="Zebrafink^Zoe")
    site.accept(path.read_bytes())
    ds = pydicom.dcmread(path)
    ds.PatientName = "Zebrafink^Zacharias"
    del ds.PixelData
    site.accept(encode_file(ds))
    operator = site.person("operator")
    [number] = re.findall(r"/exceptions/(\d+)\">Compare", operator.get("/exceptions").text)
    told = operator.get(f"/exceptions/{number}").text
    first, second = re.findall(r'src="(/instances/\d+/frame.png)', told)
    assert operator.get(first).headers["content-type"] == "image/png"
    without = operator.get(second)
    assert without.headers["content-type"].startswith("image/svg+xml")
    assert "it has no image" in re.sub("<[^>]+>", " ", without.text).replace("  ", " ")
