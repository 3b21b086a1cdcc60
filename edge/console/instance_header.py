"""The headers of spooled objects, for comparison and for asking rules again: a bounded look each, no Dataset."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from edge.dicom import header, part10
from edge.errors import Unreadable
from edge.model import ContextKey, InstanceHeader, Origin, Values
from edge.spool import Spool
from edge.store.queries import Instance

#: Compared side by side. What names a person, or a person's visit, comes first.
ABOUT_PATIENTS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "ReferringPhysicianName",
)
ABOUT_IMAGES = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPClassUID",
    "Modality",
    "ImageType",
    "InstanceCreationTime",
    "AcquisitionTime",
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "SoftwareVersions",
    "BodyPartExamined",
    "SeriesNumber",
    "SeriesDescription",
    "InstanceNumber",
    "ImageLaterality",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsStored",
    "PhotometricInterpretation",
    "LossyImageCompression",
    "BurnedInAnnotation",
)
#: What everybody may see of them: how the image is made, by which machine. No free text, no UID, no time of a visit.
TECHNICAL = frozenset(
    {
        "Modality",
        "ImageType",
        "Manufacturer",
        "ManufacturerModelName",
        "StationName",
        "SoftwareVersions",
        "SeriesNumber",
        "InstanceNumber",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsStored",
        "PhotometricInterpretation",
        "LossyImageCompression",
        "BurnedInAnnotation",
    }
)


def read(spool: Spool, instance: Instance, keywords: Collection[str]) -> dict[str, Values]:
    """Attributes of one spooled object, by keyword; what is absent is left out. Raises Unreadable, OSError."""
    return read_file(spool.path_of(instance.path), instance.transfer_syntax_uid, keywords)


def read_file(path: Path, transfer_syntax_uid: str, keywords: Collection[str]) -> dict[str, Values]:
    """The same of a Part 10 file. Raises Unreadable, OSError."""
    wanted = {int(tag): keyword for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}
    with path.open("rb") as file:
        offset = part10.parse_meta(file.read(part10.MAX_META)).dataset_offset
        length = os.fstat(file.fileno()).st_size - offset

        def look(at: int, size: int) -> bytes:
            return os.pread(file.fileno(), size, offset + at)

        found = header.scan(look, length, transfer_syntax_uid, frozenset(wanted), frozenset())
    return {wanted[tag]: values for tag, values in found.items()}


def dump(path: Path, most: int) -> str:
    """The first bytes of a data set that nobody can read, in hexadecimal and as text, 16 a line."""
    with path.open("rb") as file:
        file.seek(part10.parse_meta(file.read(part10.MAX_META)).dataset_offset)
        data = file.read(most)
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{at:04x}  {row.hex(' '):<47}  {text}")
    return "\n".join(lines)


def facts(spool: Spool, instance: Instance, keywords: Collection[str]) -> InstanceHeader:
    """What rules may ask of one spooled object. Raises Unreadable where the file is gone or cannot be read."""
    try:
        attributes = read(spool, instance, keywords)
    except OSError as error:
        raise Unreadable(f"the file cannot be read: {error.strerror}") from None
    kind = ContextKey(instance.sop_class_uid, instance.transfer_syntax_uid)
    origin = Origin(instance.calling_ae, instance.called_ae, instance.address, instance.received_at)
    return InstanceHeader(kind.sop_class_uid, instance.sop_instance_uid, kind.transfer_syntax_uid, origin, attributes)
