"""The look at a header: it agrees with pydicom on real files, and hostile bytes cost it little and teach it nothing."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import keyword_for_tag, tag_for_keyword

from edge.dicom import header
from edge.dicom.header import OPAQUE, scan
from edge.errors import Unreadable
from edge.model import Values
from tests.support.objects import dataset, part10, real_files

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
UNDEFINED = 0xFFFFFFFF
MANY = 1 << 30  # bytes: more than any object here has
Found = dict[int, Values]

#: What the catalog asks for, and a good deal that rules may ask.
KEYWORDS = (
    *(
        "SpecificCharacterSet",
        "SOPClassUID",
        "SOPInstanceUID",
        "ImageType",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
    ),
    *("Modality", "Manufacturer", "InstitutionName", "StationName", "StudyDescription", "SeriesDescription"),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "BodyPartExamined", "KVP"),
    *("StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "Rows", "PixelSpacing"),
    *(
        "WindowCenter",
        "NumberOfFrames",
        "SmallestImagePixelValue",
        "FrameIncrementPointer",
        "RequestAttributesSequence",
    ),
)
NESTED = (
    *("CodeValue", "CodeMeaning", "ReferencedSOPInstanceUID", "BodyPartExamined", "PatientName", "PersonName"),
    *("FrameType", "SliceThickness", "ReferencedFrameNumber"),
)


def tags(*keywords: str) -> frozenset[int]:
    found = [tag_for_keyword(keyword) for keyword in keywords]
    return frozenset(tag for tag in found if tag is not None)


def look(data: bytes, *wanted: str, syntax: str = EXPLICIT, nested: frozenset[int] = frozenset()) -> dict[str, Values]:
    found = scan(lambda at, n: data[at : at + n], len(data), syntax, tags(*wanted), nested)
    return {keyword_for_tag(tag): values for tag, values in found.items()}


def element(keyword: str | int, vr: str, value: bytes = b"", size: int | None = None, order: str = "<") -> bytes:
    """One element with explicit VR, its length as told."""
    tag = keyword if isinstance(keyword, int) else tag_for_keyword(keyword) or 0
    size = len(value) if size is None else size
    head = struct.pack(order + "HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    short = vr.encode() in header.SHORT_VRS
    return head + (struct.pack(order + "H", size) if short else struct.pack(order + "HI", 0, size)) + value


def implicit(keyword: str | int, value: bytes = b"", size: int | None = None) -> bytes:
    tag = keyword if isinstance(keyword, int) else tag_for_keyword(keyword) or 0
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if size is None else size) + value


def item(value: bytes = b"", size: int | None = None) -> bytes:
    return implicit(header.ITEM, value, size)


ITEM_END, SEQUENCE_END = implicit(header.ITEM_END), implicit(header.SEQUENCE_END)
MODALITY = element("Modality", "CS", b"CT")
STUDY = element("StudyInstanceUID", "UI", b"1.2.3\0")


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


# -- against pydicom ---------------------------------------------------------------------------------------------------


def pydicom_values(found: pydicom.DataElement) -> Values:
    if found.VR == "SQ":
        return OPAQUE if len(found.value) else ()
    if found.is_empty:
        return ()
    several = found.value if isinstance(found.value, (list, pydicom.multival.MultiValue)) else [found.value]
    if found.VR == "AT":
        return tuple(f"{int(value):08X}" for value in several)
    texts = [str(getattr(value, "original_string", None) or value) for value in map(_plain_name, several)]
    return tuple(text.strip() for text in texts)


def _plain_name(value: Any) -> Any:
    return str(value) if isinstance(value, pydicom.valuerep.PersonName) else value


def without_empty_groups(values: Values) -> Values:
    """pydicom leaves out the empty component groups that end a person's name (`Wang^XiaoDong=王^小東=`)."""
    return tuple(value.rstrip("=") for value in values)


@pytest.mark.filterwarnings("ignore")  # pydicom's, of what is odd in the files
def test_every_real_file_reads_as_pydicom_reads_it() -> None:
    compared = 0
    for file in real_files():
        if file.row["readable"] != "yes" or file.row["transfer_syntax"] == "(none)":
            continue  # no File Meta Information: no modality could have sent it so
        ds = pydicom.dcmread(file.path, stop_before_pixels=True)
        found = look(dataset(file.path), *KEYWORDS, syntax=ds.file_meta.TransferSyntaxUID)
        expected = {each.keyword: pydicom_values(each) for each in ds if each.keyword in KEYWORDS}
        for keyword in KEYWORDS:
            assert (keyword in found) == (keyword in expected), f"{file}: {keyword}"
            ours, theirs = found.get(keyword, ()), expected.get(keyword, ())
            assert without_empty_groups(ours) == without_empty_groups(theirs), f"{file}: {keyword}"
            compared += bool(ours)
    assert compared > 5000


#: Real files whose sequences are broken behind the default look: one is cut off, one tells a wrong length.
BROKEN_SEQUENCES = {"pydicom/rtplan_truncated.dcm", "pydicom/test_files_dicomdirtests_DICOMDIR-nooffset"}


@pytest.mark.filterwarnings("ignore")
def test_nested_values_of_real_files_are_those_that_pydicom_finds() -> None:
    for file in real_files():
        if file.row["readable"] != "yes" or file.row["transfer_syntax"] == "(none)":
            continue
        ds = pydicom.dcmread(file.path, stop_before_pixels=True)
        data, syntax = dataset(file.path), ds.file_meta.TransferSyntaxUID
        if str(file) in BROKEN_SEQUENCES:
            with pytest.raises(Unreadable):
                look(data, "StudyInstanceUID", syntax=syntax, nested=tags(*NESTED))
            continue
        found = look(data, "StudyInstanceUID", syntax=syntax, nested=tags(*NESTED))
        expected = nested_values(ds, private=syntax != IMPLICIT)
        for keyword in NESTED:
            ours, theirs = found.get(keyword, ()), expected.get(keyword, ())
            if len(ours) < header.MAX_NESTED_VALUES:
                assert without_empty_groups(ours) == without_empty_groups(theirs), f"{file}: {keyword}"
            else:
                assert set(ours) <= set(theirs), f"{file}: {keyword}"


def nested_values(ds: pydicom.Dataset, private: bool) -> dict[str, Values]:
    """Values by keyword: of the top level where it has the attribute, else all that lie below."""
    below: dict[str, dict[str, None]] = {}

    def walk(inner: pydicom.Dataset) -> None:
        for each in inner:
            if each.VR == "SQ" and (private or not each.tag.is_private):
                for part in each.value:
                    walk(part)
            elif inner is not ds:
                below.setdefault(each.keyword, {}).update(dict.fromkeys(pydicom_values(each)))

    walk(ds)
    top = {each.keyword: pydicom_values(each) for each in ds}
    return {keyword: tuple(values) for keyword, values in below.items()} | top


# -- encodings ---------------------------------------------------------------------------------------------------------


def sample() -> pydicom.Dataset:
    ds = pydicom.Dataset()
    ds.Modality, ds.PatientName, ds.StudyInstanceUID = "CT", "Doe^Jane", "1.2.3"
    ds.ImageType, ds.Rows, ds.RecommendedDisplayFrameRateInFloat = ["ORIGINAL", "PRIMARY"], 512, 1.5
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.4"
    ds.ReferencedImageSequence = [pydicom.Dataset(), pydicom.Dataset()]
    ds.ReferencedImageSequence[1].BodyPartExamined = "CHEST"
    return ds


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN])
def test_the_encoding_does_not_matter(syntax: str, undefined: bool) -> None:
    ds = sample()
    ds["ReferencedImageSequence"].is_undefined_length = undefined
    for each in ds.ReferencedImageSequence:
        each.is_undefined_length_sequence_item = undefined
    found = look(
        dataset(part10(ds, syntax)), "Modality", "ImageType", "Rows", syntax=syntax, nested=tags("BodyPartExamined")
    )
    assert found == {
        "Modality": ("CT",),
        "ImageType": ("ORIGINAL", "PRIMARY"),
        "Rows": ("512",),
        "BodyPartExamined": ("CHEST",),
    }


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2.4.50",  # JPEG, encapsulated
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression: only the frames are deflated
        "1.2.3.4",  # nobody's
        "",
    ],
)
def test_all_other_transfer_syntaxes_are_explicit_little_endian(syntax: str) -> None:
    assert look(MODALITY + STUDY, "Modality", syntax=syntax) == {"Modality": ("CT",)}


def test_jpip_referenced_deflate_is_deflated() -> None:
    assert look(deflate(MODALITY), "Modality", syntax="1.2.840.10008.1.2.4.95") == {"Modality": ("CT",)}


def test_an_unknown_sequence_of_undefined_length_is_implicit_inside() -> None:
    inside = item(implicit("CodeValue", b"ABCD") + ITEM_END, UNDEFINED)
    unknown = element(0x00091001, "UN", inside + SEQUENCE_END, UNDEFINED)
    assert look(unknown + STUDY, "StudyInstanceUID", nested=tags("CodeValue")) == {
        "StudyInstanceUID": ("1.2.3",),
        "CodeValue": ("ABCD",),
    }
    # PS3.5 section 6.2.2: also within big endian.
    big = struct.pack(">HH2sHI", 0x0009, 0x1001, b"UN", 0, UNDEFINED) + inside + SEQUENCE_END
    big += element("StudyInstanceUID", "UI", b"1.2.3\0", order=">")
    assert look(big, "StudyInstanceUID", syntax=BIG_ENDIAN) == {"StudyInstanceUID": ("1.2.3",)}


def test_values_of_unknown_vr_are_read_as_the_dictionary_says() -> None:
    data = element("Modality", "UN", b"CT") + element("Rows", "UN", b"\0\2")
    assert look(data, "Modality", "Rows") == {"Modality": ("CT",), "Rows": ("512",)}
    # PS3.5 section 6.2.2: the value is little endian always.
    assert look(element("Rows", "UN", b"\0\2", order=">"), "Rows", syntax=BIG_ENDIAN) == {"Rows": ("512",)}


def test_fragments_inside_an_icon_are_passed_over() -> None:
    fragments = element(0x7FE00010, "OB", item() + item(b"\xfe\xff\x0d\xe0" * 5) + SEQUENCE_END, UNDEFINED)
    icon = element("IconImageSequence", "SQ", item(fragments + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED)
    last = element("TopicTitle", "LO", b"T1")
    assert look(icon + last, "TopicTitle") == {"TopicTitle": ("T1",)}
    assert look(icon + last, "TopicTitle", nested=tags("CodeValue")) == {"TopicTitle": ("T1",)}


def test_an_item_whose_length_spells_a_vr_is_an_item() -> None:
    sequence = element("ReferencedImageSequence", "SQ", item(bytes(0x4955)) + SEQUENCE_END, UNDEFINED)  # "UI"
    assert look(sequence + STUDY, "StudyInstanceUID") == {"StudyInstanceUID": ("1.2.3",)}


def test_an_element_that_falls_into_implicit_vr_is_read_on() -> None:
    sequence = element(
        "ReferencedImageSequence",
        "SQ",
        item(implicit("CodeValue", b"AB") + ITEM_END, UNDEFINED) + SEQUENCE_END,
        UNDEFINED,
    )
    assert look(sequence + STUDY, "StudyInstanceUID") == {"StudyInstanceUID": ("1.2.3",)}


def test_two_odd_bytes_for_a_vr_stand_before_a_16_bit_length() -> None:
    odd = struct.pack("<HH2sH", 0x0009, 0x1001, b"??", 4) + b"abcd"
    assert look(odd + STUDY, "StudyInstanceUID") == {"StudyInstanceUID": ("1.2.3",)}


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "vr", "raw", "values"),
    [
        ("Modality", "CS", b"CT", ("CT",)),
        ("Modality", "CS", b"", ()),
        ("Modality", "CS", b"  ", ()),
        ("ImageType", "CS", b"ORIGINAL \\\\AXIAL ", ("ORIGINAL", "", "AXIAL")),
        ("SOPClassUID", "UI", b"1.2.3\0", ("1.2.3",)),
        ("ImageComments", "LT", b" a\\b ", (" a\\b",)),
        ("Rows", "US", b"\0\2", ("512",)),
        ("Rows", "US", b"\0\2\1", ("512",)),
        ("ReferencePixelX0", "SL", b"\xff\xff\xff\xff", ("-1",)),
        ("PixelDataProviderURL", "UR", b"http://h/a ", ("http://h/a",)),
        ("RecommendedDisplayFrameRateInFloat", "FL", struct.pack("<f", 1.1), ("1.1",)),
        ("TotalCollimationWidth", "FD", struct.pack("<2d", 38.4, 1e-9), ("38.4", "1e-09")),
        ("FrameIncrementPointer", "AT", b"\x18\0\x63\x10", ("00181063",)),
        ("ReferencedImageSequence", "SQ", item(), OPAQUE),
        ("ICCProfile", "OB", b"abcd", OPAQUE),
        ("ImageComments", "LT", b"x" * header.MAX_VALUE, ("x" * header.MAX_VALUE,)),
        ("ImageComments", "LT", b"x" * (header.MAX_VALUE + 2), OPAQUE),
    ],
)
def test_values(keyword: str, vr: str, raw: bytes, values: Values) -> None:
    assert look(element(keyword, vr, raw), keyword) == {keyword: values}


@pytest.mark.parametrize(
    ("charset", "raw", "name"),
    [
        (b"", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"ISO-IR 144", b"\xbb\xee\xda", "Люк"),
        (b"ISO_IR 192", "王^小東".encode(), "王^小東"),
        (b"ISO_IR 192", b"\xff\xfe", "\ufffd\ufffd"),
        (b"GB18030", "王\\小".encode("gb18030"), "王"),
        (b"ISO_IR 13", b"\xd4\xcf\xc0\xde", "ﾔﾏﾀﾞ"),
        (b"\\ISO 2022 IR 87", b"Y^T=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Y^T=山田^太郎"),
        (b"\\ISO 2022 IR 149", b"H^G=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce", "H^G=洪^吉"),
        (b"\\ISO 2022 IR 58", b"W=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1", "W=王^小"),
        (b"no such thing", b"A\xe9", "Aé"),
        (b"zlib_codec", b"A\xe9", "Aé"),  # a codec of Python's, and no character set
        (b"ISO_IR 100", b"A\x1b%/1B\xe9", "A\x1b%/1Bé"),
    ],
)
def test_names_are_read_in_their_character_set(charset: bytes, raw: bytes, name: str) -> None:
    data = element("SpecificCharacterSet", "CS", charset) + element("PatientName", "PN", raw)
    assert look(data, "PatientName")["PatientName"][0] == name


def test_an_item_may_have_a_character_set_of_its_own() -> None:
    name = element("PersonName", "PN", b"\xbb\xee\xda")
    russian = item(element("SpecificCharacterSet", "CS", b"ISO_IR 144") + name)
    sequence = element(0x00081140, "SQ", russian + item(name))
    data = element("SpecificCharacterSet", "CS", b"ISO_IR 100") + sequence
    assert look(data, nested=tags("PersonName")) == {"PersonName": ("Люк", "»îÚ")}


# -- where it looks ----------------------------------------------------------------------------------------------------


def test_the_first_of_two_counts_and_order_is_forgiven_below_the_last_wanted() -> None:
    data = element("PatientID", "LO", b"P1") + MODALITY + element("PatientID", "LO", b"P2") + STUDY
    assert look(data, "Modality", "PatientID", "StudyInstanceUID") == {
        "PatientID": ("P1",),
        "Modality": ("CT",),
        "StudyInstanceUID": ("1.2.3",),
    }


def test_nothing_is_read_behind_the_last_wanted_tag() -> None:
    data = MODALITY + STUDY + b"\xff" * 40
    assert look(data, "Modality") == {"Modality": ("CT",)}


def test_nothing_is_read_behind_the_pixel_data() -> None:
    for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010):
        data = MODALITY + element(tag, "OW", b"", 0xFFFFFFF0)
        assert look(data, "Modality", "DataSetTrailingPadding", nested=tags("CodeValue")) == {"Modality": ("CT",)}


def test_long_values_are_passed_over_unread() -> None:
    reads: list[tuple[int, int]] = []
    overlay = element(0x00091001, "OB", bytes(3_000_000))
    data = MODALITY + overlay * 3 + STUDY

    def read(at: int, n: int) -> bytes:
        reads.append((at, n))
        return data[at : at + n]

    assert scan(read, len(data), EXPLICIT, tags("StudyInstanceUID")) == {0x0020000D: ("1.2.3",)}
    assert sum(n for _, n in reads) <= 4 * header.WINDOW


def test_a_small_header_takes_one_read() -> None:
    reads: list[int] = []
    data = MODALITY + STUDY

    def read(at: int, n: int) -> bytes:
        reads.append(at)
        return data[at : at + n]

    assert len(scan(read, len(data), EXPLICIT, tags("Modality", "StudyInstanceUID", "Rows"))) == 2
    assert reads == [0]


def test_what_the_top_level_has_hides_what_lies_below() -> None:
    sequence = element("ReferencedImageSequence", "SQ", item(element("Modality", "CS", b"MR")))
    assert look(sequence, nested=tags("Modality")) == {"Modality": ("MR",)}
    assert look(MODALITY + sequence, nested=tags("Modality")) == {"Modality": ("CT",)}
    nonsense = element(0x00091001, "SQ", b"\xff" * 40)  # what is found need not be looked for in there
    assert look(MODALITY + nonsense, nested=tags("Modality")) == {"Modality": ("CT",)}
    late = element("StudyID", "SH", b"S1")
    assert look(sequence + late, nested=tags("Modality", "StudyID")) == {"Modality": ("MR",), "StudyID": ("S1",)}


def test_of_many_nested_values_the_first_are_given() -> None:
    codes = b"".join(item(element("CodeValue", "SH", b"%04d" % number)) for number in range(100) for _ in range(2))
    found = look(element("ReferencedImageSequence", "SQ", codes), nested=tags("CodeValue"))
    assert found["CodeValue"] == tuple(f"{number:04}" for number in range(header.MAX_NESTED_VALUES))


def test_defined_lengths_are_not_entered_where_nothing_nested_is_wanted() -> None:
    nonsense = element("ReferencedImageSequence", "SQ", b"\xff" * 100)
    assert look(nonsense + STUDY, "StudyInstanceUID") == {"StudyInstanceUID": ("1.2.3",)}
    with pytest.raises(Unreadable, match=r"\(0008,1140\)"):
        look(nonsense + STUDY, "StudyInstanceUID", nested=tags("CodeValue"))


def test_a_nested_look_that_never_ends_gives_what_it_has() -> None:
    frames = element(0x52009230, "SQ", item(element("CodeValue", "SH", b"AB")) * 200_000)
    assert look(STUDY + frames, "StudyInstanceUID", nested=tags("CodeValue")) == {
        "StudyInstanceUID": ("1.2.3",),
        "CodeValue": ("AB",),
    }
    with pytest.raises(Unreadable, match="too long"):
        look(STUDY + frames, "DigitalSignaturesSequence", nested=tags("CodeValue"))


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (element("PatientName", "PN", b"Canary", 8), r"\(0010,0010\), byte 8: a value of 8 bytes runs past the end"),
        (element("RetrieveURL", "UR", b"Canary", 0xFFFFFFFE), "a value of 4294967294 bytes runs past"),
        (MODALITY + b"\x10\0\x10\0PN", "ends in the middle of an element"),
        (MODALITY + b"\x10\0\x10\0SQ\0\0\0\0", r"runs past the end"),
        (element(0x00081140, "SQ", item(b"", UNDEFINED), UNDEFINED), "not closed"),
        (element(0x00081140, "SQ", item(MODALITY, 4) + SEQUENCE_END, UNDEFINED), "something else than items"),
        (element(0x00081140, "SQ", item(MODALITY, 0xFFFFFFF0), UNDEFINED), "value of 4294967280 bytes runs past"),
        (element(0x00081140, "SQ", MODALITY, UNDEFINED), "something else than items"),
        (element(0x00081140, "SQ", item(item(b"", UNDEFINED), UNDEFINED), UNDEFINED), "outside of a sequence"),
        (element(0x00081140, "OB", item(b"", UNDEFINED), UNDEFINED), "something else than items"),
    ],
)
def test_damage_is_named_with_its_place_and_without_values(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why) as caught:
        look(data, "StudyInstanceUID")
    assert "Canary" not in str(caught.value)


def test_an_item_that_is_longer_than_its_sequence_is_damaged() -> None:
    data = element(0x00081140, "SQ", item(MODALITY, len(MODALITY) + 2)) + STUDY
    assert look(data, "StudyInstanceUID") == {"StudyInstanceUID": ("1.2.3",)}
    with pytest.raises(Unreadable, match="a value of 12 bytes runs past the end"):
        look(data, "StudyInstanceUID", nested=tags("CodeValue"))


def test_a_data_set_that_is_shorter_than_told_is_damaged() -> None:
    data = MODALITY + element("PatientName", "PN", b"Doe^Jane")
    with pytest.raises(Unreadable, match="only 26 of the 1000 bytes"):
        scan(lambda at, n: data[at : at + n], 1000, EXPLICIT, tags("StudyInstanceUID"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (deflate(MODALITY + STUDY)[:-4], "cut short"),
        (b"\xff" * 100, "cannot be inflated"),
        (deflate(MODALITY + element("PatientName", "PN", b"", 4000)), "a value of 4000 bytes runs past the end"),
        (deflate(element("RetrieveURL", "UR", bytes(20_000), 60_000)), "ends at byte 20012, within a value"),
        (deflate(MODALITY + element(0x00091001, "OB", bytes(header.MAX_LOOK)) + STUDY), "too long"),
    ],
)
def test_damaged_deflated_data_sets(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        look(data, "StudyInstanceUID", syntax=DEFLATED)


def test_the_end_of_a_deflated_data_set_is_found_wherever_a_window_ends() -> None:
    for missing in range(24):
        filler = element(0x00091001, "OB", bytes(header.WINDOW - 12 - missing))
        data = deflate(filler + MODALITY)
        assert look(data, "Modality", "StudyInstanceUID", syntax=DEFLATED) == {"Modality": ("CT",)}


# -- hostile objects ---------------------------------------------------------------------------------------------------

SEQUENCE = element(0x00081140, "SQ", b"", UNDEFINED)
EMPTY = element("Manufacturer", "LO")


def deep(levels: int) -> bytes:
    data = b""
    for _ in range(levels):
        data = element(0x00081140, "SQ", item(data))
    return data


HOSTILE: dict[str, Callable[[], tuple[bytes, str]]] = {
    "100,000 sequences deep": lambda: ((SEQUENCE + item(b"", UNDEFINED)) * 100_000, EXPLICIT),
    "1,100 sequences of defined length deep": lambda: (deep(1100), EXPLICIT),
    "a million empty items": lambda: (SEQUENCE + item() * 1_000_000, EXPLICIT),
    "a million empty items of UN": lambda: (element(0x00081140, "UN", b"", UNDEFINED) + item() * 1_000_000, EXPLICIT),
    "half a million closed items": lambda: (SEQUENCE + (item(b"", UNDEFINED) + ITEM_END) * 500_000, EXPLICIT),
    "half a million sequences": lambda: ((SEQUENCE + SEQUENCE_END) * 500_000, EXPLICIT),
    "half a million items of one element": lambda: (SEQUENCE + item(EMPTY) * 500_000, EXPLICIT),
    "a million empty elements": lambda: (EMPTY * 1_000_000, EXPLICIT),
    "a million fragments": lambda: (element(0x00081140, "OB", b"", UNDEFINED) + item() * 1_000_000, EXPLICIT),
    "a length of 4 GB": lambda: (element("RetrieveURL", "UR", b"", 0xFFFFFFFE), EXPLICIT),
    "16 MB of zeros": lambda: (bytes(16_000_000), EXPLICIT),
    "2,000 values of 20 KB": lambda: (element("RetrieveURL", "UR", bytes(20_000)) * 2000, EXPLICIT),
    "a deflated value of 64 MB": lambda: (deflate(element("RetrieveURL", "UR", bytes(64_000_000))), DEFLATED),
    "64 MB of deflated zeros": lambda: (deflate(bytes(64_000_000)), DEFLATED),
    "eight million deflated items": lambda: (deflate(SEQUENCE + item() * 8_000_000), DEFLATED),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_objects_cost_few_reads_and_little_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, syntax = HOSTILE[name]()

    def looked_at() -> None:
        with suppress(Unreadable):  # what is passed over as a whole does no harm
            look(data, "StudyInstanceUID", syntax=syntax)

    def looked_into() -> None:
        with pytest.raises(Unreadable):
            look(data, "StudyInstanceUID", syntax=syntax, nested=tags("CodeValue", "Manufacturer"))

    # Counting and tracing are slow; what grew with the elements would show in a sixteenth too.
    assert header.MAX_LOOK == 2 << 20, "as docs/reliability.md has it"
    most = header.MAX_LOOK // 16
    monkeypatch.setattr(header, "MAX_LOOK", most)
    for attempt in (looked_at, looked_into):
        elements, size = effort(attempt)
        assert elements <= 2 * most // 8, "each takes 8 bytes, and a sequence is looked at twice"
        assert size <= 3 * most
    assert peak_memory(looked_at) < 1024 * 1024
    assert peak_memory(looked_into) < 1024 * 1024


def effort(attempt: Callable[[], None]) -> tuple[int, int]:
    """How many elements it looks at, and how many bytes it reads or inflates."""
    elements, size, element_at, read = 0, 0, header.Window.element, header._read_fully

    def counted(window: header.Window, offset: int, form: Any) -> Any:
        nonlocal elements
        elements += 1
        return element_at(window, offset, form)

    def counted_read(source: header.Read, offset: int, length: int) -> bytes:
        nonlocal size
        made = read(source, offset, length)
        size += len(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(header.Window, "element", counted)
        patch.setattr(header, "_read_fully", counted_read)
        attempt()
    return elements, size


def peak_memory(attempt: Callable[[], None]) -> int:
    tracemalloc.start()
    attempt()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# -- fuzzing -----------------------------------------------------------------------------------------------------------

WANTED = tags(*KEYWORDS)


def seeds() -> list[tuple[bytes, str]]:
    """Headers to mutate: of made objects in each encoding, and of some real files where they are."""
    ds = sample()
    ds["ReferencedImageSequence"].is_undefined_length = True
    made = [(dataset(part10(ds, syntax)), syntax) for syntax in (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)]
    try:
        files = real_files()
    except pytest.skip.Exception:
        return made
    chosen = [file for file in files if file.row["readable"] == "yes" and file.row["transfer_syntax"] != "(none)"][::7]
    return made + [(dataset(file.path)[:8192], syntax_of(file.path)) for file in chosen]


def syntax_of(path: Path) -> str:
    return str(pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID)


SEEDS = seeds()
EVIL = [
    b"\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0",
    b"\xfe\xff\xdd\xe0",
    b"SQ\0\0",
    b"UN\0\0",
    b"\0" * 8,
]


def mutated(data: bytes, seed: int) -> bytes:
    dice = random.Random(seed)
    blob = bytearray(data)
    for _ in range(dice.randrange(1, 8)):
        at = dice.randrange(len(blob) + 1)
        match dice.randrange(4):
            case 0:
                blob[at : at + 1] = dice.randbytes(1)
            case 1:
                evil = dice.choice(EVIL)
                blob[at : at + len(evil)] = evil
            case 2:
                del blob[at : at + dice.randrange(64)]
            case _:
                other = dice.randrange(len(blob) + 1)
                blob[at:at] = blob[other : other + dice.randrange(256)]
    return bytes(blob)


@settings(max_examples=1500, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(range(len(SEEDS))), st.integers(0, 2**32), st.booleans())
def test_mutated_headers_are_read_or_refused(which: int, seed: int, nested: bool) -> None:
    data, syntax = SEEDS[which]
    data = mutated(data, seed)
    inside = tags(*NESTED) if nested else frozenset()
    told = outcome(data, syntax, inside)
    if isinstance(told, str):
        assert told.isascii()
        assert "Doe" not in told
    else:
        assert told.keys() <= WANTED | inside
        assert all(isinstance(value, str) for values in told.values() for value in values)


def outcome(data: bytes, syntax: str, nested: frozenset[int] = frozenset(), piece: int = MANY) -> Found | str:
    """The values, or why they cannot be read, when the bytes come in pieces."""
    try:
        return scan(lambda at, n: data[at : at + min(n, piece)], len(data), syntax, WANTED, nested)
    except Unreadable as error:
        return str(error)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN]))
def test_any_bytes_are_read_or_refused(data: bytes, syntax: str) -> None:
    outcome(data, syntax, WANTED)


@settings(max_examples=200)
@given(st.sampled_from(range(len(SEEDS))), st.integers(1, 3000))
def test_it_does_not_matter_in_which_pieces_the_bytes_come(which: int, piece: int) -> None:
    data, syntax = SEEDS[which]
    assert outcome(data, syntax, piece=piece) == outcome(data, syntax)


def test_an_element_without_a_tag_closes_no_sequence() -> None:
    blob = bytes(4) + b"\xff\xff\xff\xff" + bytes(16)
    with pytest.raises(Unreadable):
        header.scan(lambda at, n: blob[at : at + n], len(blob), "1.2.840.10008.1.2", frozenset({0x00100020}))
