"""Small data sets, read and written: what pydicom writes is read, what is built pydicom reads, damage is Unreadable."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from edge.dicom import header, items
from edge.dicom.elements import MAX_DEPTH
from edge.dicom.items import Attributes, ElementValue, decode_items, encode_items, item
from edge.errors import Unreadable

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
NAME, STEPS, ID, STATION, ROWS, OTHER = 0x00100010, 0x00400100, 0x00100020, 0x00400001, 0x00280010, 0x00321064


def written(data_set: Dataset, syntax: str, *, is_open: bool) -> bytes:
    for element in data_set.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = is_open
            for each in element.value:
                each.is_undefined_length_sequence_item = is_open
    out = BytesIO()
    little = syntax != ExplicitVRBigEndian
    dcmwrite(out, data_set, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little)
    return out.getvalue()


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_pydicom_writes_is_read(syntax: str, is_open: bool) -> None:
    inner, outer = Dataset(), Dataset()
    inner.ScheduledStationAETitle = ["CT1", "CT2"]
    inner.Rows = 512
    outer.SpecificCharacterSet = "ISO_IR 100"
    outer.PatientName = "Müller^Änne"
    outer.PatientID = ""
    outer.ScheduledProcedureStepSequence = [inner, Dataset()]
    found = decode_items(written(outer, syntax, is_open=is_open), syntax)
    assert found.text(NAME) == "Müller^Änne"
    assert found[ID].values == ()
    first, second = found.items_of(STEPS)
    assert (first[STATION].values, first.text(ROWS), second) == (("CT1", "CT2"), "512", {})


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_built_pydicom_reads(syntax: str) -> None:
    built = encode_items(
        item({NAME: "Müller^Änne", ID: "1", STEPS: [item({STATION: "CT1\\CT2", ROWS: 512, OTHER: [item({})]})]}), syntax
    )
    assert len(built) % 2 == 0
    little = syntax != ExplicitVRBigEndian
    found = dcmread(BytesIO(_as_file(built, syntax)))
    assert little == found.original_encoding[1]
    assert found.PatientName == "Müller^Änne"
    assert found.SpecificCharacterSet == "ISO_IR 192"
    (step,) = found.ScheduledProcedureStepSequence
    assert (list(step.ScheduledStationAETitle), step.Rows) == (["CT1", "CT2"], 512)
    assert len(step.ScheduledProtocolCodeSequence if "ScheduledProtocolCodeSequence" in step else [1]) == 1
    assert decode_items(built, syntax).text(NAME) == "Müller^Änne"


def _as_file(data: bytes, syntax: str) -> bytes:
    meta = encode_items(Attributes({0x00020010: ElementValue("UI", (str(syntax),))}), ExplicitVRLittleEndian)
    length = encode_items(Attributes({0x00020000: ElementValue("UL", (str(len(meta)),))}), ExplicitVRLittleEndian)
    return bytes(128) + b"DICM" + length + meta + data


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_group_lengths_are_no_attributes(syntax: str) -> None:
    """They are right in one encoding alone, and nobody asks for them."""
    length, station = ElementValue("UL", ("86",)), ElementValue("AE", ("CT1",))
    step = Attributes({0x00400000: length, STATION: station})
    data_set = Attributes(
        {0x00100000: length, NAME: ElementValue("PN", ("A^B",)), STEPS: ElementValue("SQ", (), [step])}
    )
    found = decode_items(encode_items(data_set, syntax), syntax)
    assert found.keys() == {NAME, STEPS}
    assert found.items_of(STEPS) == [{STATION: station}]


def test_ten_thousand_references_are_read_and_written() -> None:
    references = [item({0x00081150: "1.2.840.10008.5.1.4.1.1.2", 0x00081155: f"1.2.3.{n:050}"}) for n in range(10_000)]
    data = encode_items(item({0x00081199: references}), ExplicitVRLittleEndian)
    assert decode_items(data, ExplicitVRLittleEndian).items_of(0x00081199) == references
    assert len(data) < items.MAX_DATA_SET


def test_a_data_set_of_endless_elements_or_depth_is_refused() -> None:
    with pytest.raises(Unreadable):
        decode_items(bytes.fromhex("1000200000000000") * (items.MAX_ELEMENTS + 1), ImplicitVRLittleEndian)
    nested = item({})
    for _ in range(MAX_DEPTH + 2):
        nested = item({STEPS: [nested]})
    deep = encode_items(nested, ExplicitVRLittleEndian)
    with pytest.raises(Unreadable):
        decode_items(deep, ExplicitVRLittleEndian)


def test_a_value_too_long_for_its_length_field_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        encode_items(item({ID: "1" * 70_000}), ExplicitVRLittleEndian)
    assert len(encode_items(item({ID: "1" * 70_000}), ImplicitVRLittleEndian)) == 70_008


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_whatever_comes_is_read_or_unreadable(noise: bytes, syntax: str) -> None:
    whole = encode_items(item({NAME: "A^B", STEPS: [item({STATION: "CT1"})]}), syntax)
    for data in (noise, whole[:20] + noise, whole[: len(noise)]):
        try:
            decode_items(data, syntax)
        except Unreadable:
            pass


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_an_element_of_tag_zero_closes_nothing(size: int) -> None:
    """Found by mutation: (0000,0000) is no delimiter, whatever its length says."""
    data = struct.pack("<HHL", 0, 0, size) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) * (size > 0)
    assert NAME not in decode_items(data, ImplicitVRLittleEndian)
    assert header.scan(lambda at, n: data[at : at + n], len(data), ImplicitVRLittleEndian, frozenset({NAME})) == {}
