"""What queries will answer is kept of every header, compactly, and the rest of it; behind the answer to the sender."""

from __future__ import annotations

import json
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from edge.dicom import compact
from edge.dicom.header import read_from
from edge.errors import Unreadable
from edge.intake.policy import Policy
from edge.storage.backfill import Backfill
from edge.storage.rebuild import recover
from edge.store import headers
from edge.store.patients import MOST_CHARACTERS, bound_text
from edge.text import fold_name
from tests.support.filled import Filled
from tests.support.objects import new_uid

IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
)  # fmt: skip


def request() -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "RP1", "SPS7"
    return item


def fill(filled: Filled) -> None:
    backfill = Backfill(filled.db, filled.intake, clock=lambda: 7.0)
    while backfill.step():
        pass


def rows(filled: Filled, sql: str) -> list[tuple[Any, ...]]:
    with filled.db.reading() as conn:
        return [tuple(row) for row in conn.execute(sql)]


def encoded(ds: pydicom.Dataset, syntax: str) -> bytes:
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = syntax == IMPLICIT, syntax != BIG
    write_dataset(file, ds)
    if syntax != DEFLATED:
        return file.getvalue()
    packed = zlib.compressobj(wbits=-15)
    return packed.compress(file.getvalue()) + packed.flush()


def test_the_facts_of_series_and_instance_are_kept_and_the_header_reads_as_the_file_does(tmp_path: Path) -> None:
    with Filled(tmp_path) as filled:
        filled.receive(
            3, Laterality="L", PatientAge="055Y", ContentDate="20260102", ContentTime="101530.25",
            RequestAttributesSequence=[request()],
        )  # fmt: skip
        fill(filled)
        (facts,) = rows(filled, "SELECT facts FROM series_facts")
        said = json.loads(facts[0])
        assert (said["Laterality"], said["PatientAge"], said["StationName"]) == ("L", "055Y", "CT1")
        assert said["RequestAttributesSequence"] == {"ScheduledProcedureStepID": "SPS7", "RequestedProcedureID": "RP1"}
        kept = rows(filled, "SELECT pixel_rows, pixel_columns, frames, content_date, content_time FROM instance_header")
        assert kept == [(1, 512, None, "20260102", "101530.25")] * 3
        for number, path in rows(filled, "SELECT id, path FROM instance"):
            with filled.db.reading() as conn:
                small = headers.header(conn, number)
            assert small is not None
            file = pydicom.dcmread(filled.spool.path_of(path), stop_before_pixels=True)
            again = pydicom.filereader.read_dataset(BytesIO(small), is_implicit_VR=False, is_little_endian=True)
            assert again == pydicom.Dataset(file)
        sizes = [size for (size,) in rows(filled, "SELECT length(header) FROM instance_header ORDER BY instance_id")]
        assert max(sizes[1:]) < 150 < sizes[0]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
def test_it_is_read_in_every_encoding_with_sequences_of_both_lengths(syntax: str) -> None:
    ds, title = pydicom.Dataset(), pydicom.Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "113000", "DCM", "Of Interest"
    ds.SOPInstanceUID, ds.ContentTime, ds.RequestAttributesSequence = "1.2.3", "1015", [request()]
    ds.ConceptNameCodeSequence, ds.Rows, ds.NumberOfFrames = [title], 12, "34"
    ds["RequestAttributesSequence"].is_undefined_length = True
    data = encoded(ds, syntax)
    small = compact.compact(read_from(data), len(data), syntax)
    own = headers.instance_facts(small, syntax)
    assert (own.rows, own.frames, own.content_time, own.title) == (12, 34, "1015", "Of Interest")
    assert headers.series_facts(small, syntax)["RequestAttributesSequence"]["RequestedProcedureID"] == "RP1"


def test_long_values_and_pixels_are_left_out_and_nonsense_is_unreadable() -> None:
    ds = pydicom.Dataset()
    ds.PatientID, ds.PatientComments, ds.ImageComments = "P1", "x" * 5000, "y"
    ds.add_new(0x00091010, "OB", bytes(300))
    data = encoded(ds, EXPLICIT)
    small = compact.compact(read_from(data), len(data), EXPLICIT)
    left = pydicom.filereader.read_dataset(BytesIO(small), is_implicit_VR=False, is_little_endian=True)
    assert sorted(each.keyword for each in left) == ["ImageComments", "PatientID"]
    with pytest.raises(Unreadable):
        compact.compact(read_from(data[:-1]), len(data) - 1, EXPLICIT)


def test_a_name_is_found_whatever_its_case_accents_and_empty_components(tmp_path: Path) -> None:
    assert fold_name("M\u00dcLLER^J\u00f6rg^^") == fold_name("muller ^ jorg") == "muller^jorg"
    with Filled(tmp_path) as filled:
        filled.receive(1, PatientName="M\u00fcller^J\u00f6rg")
        assert rows(filled, "SELECT folded_name FROM patient") == [("muller^jorg",)]
        filled.execute("UPDATE patient SET folded_name = NULL")  # as one of before
        fill(filled)
        assert rows(filled, "SELECT folded_name FROM patient") == [("muller^jorg",)]


def test_what_is_kept_has_no_nul_and_a_bounded_length() -> None:
    assert bound_text("A\0B") == "AB"
    one, other = bound_text("x" * 1000), bound_text("x" * 999 + "y")
    assert len(one) == len(other) == MOST_CHARACTERS
    assert one != other


def test_after_a_recovery_all_headers_are_read_again(tmp_path: Path) -> None:
    filled = Filled(tmp_path)
    filled.receive(2, Laterality="R")
    fill(filled)
    before = rows(filled, "SELECT * FROM series_facts"), rows(filled, "SELECT * FROM instance_header")
    filled.close()
    recover(filled.data_dir, Policy.from_config(filled.config), "anna")
    with Filled(tmp_path) as again:
        fill(again)
        assert (rows(again, "SELECT * FROM series_facts"), rows(again, "SELECT * FROM instance_header")) == before


def test_a_study_of_now_is_filled_in_as_well(tmp_path: Path) -> None:
    with Filled(tmp_path) as filled:
        filled.receive(1)
        fill(filled)
        filled.receive(2, SeriesInstanceUID=new_uid())
        fill(filled)
        assert rows(filled, "SELECT count(*) FROM instance_header") == [(3,)]
