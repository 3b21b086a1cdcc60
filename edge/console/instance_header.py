"""Headers of spooled instances, for comparison and for the dry run. Each read is bounded; no Dataset is built."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from edge.dicom import header, part10
from edge.errors import Unreadable
from edge.model import InstanceHeader, Origin, Values
from edge.model.dictionary import tag_for_keyword
from edge.spool import Spool
from edge.store.queries import Instance

_ABOUT_PATIENTS = """
    PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex AccessionNumber
    StudyDate StudyTime StudyDescription ReferringPhysicianName
"""
_ABOUT_IMAGES = """
    StudyInstanceUID SeriesInstanceUID SOPClassUID SeriesDescription BodyPartExamined ImageLaterality
    InstanceCreationTime AcquisitionTime
"""
_TECHNICAL = """
    Modality ImageType Manufacturer ManufacturerModelName StationName SoftwareVersions SeriesNumber InstanceNumber
    NumberOfFrames Rows Columns BitsStored PhotometricInterpretation LossyImageCompression BurnedInAnnotation
"""
#: What a comparison shows, in this order: first what names a person, or a person's visit.
COMPARED = tuple((_ABOUT_PATIENTS + _ABOUT_IMAGES + _TECHNICAL).split())
#: What every account may see: how and by which equipment the image was made. No free text, UID, or time of a visit.
TECHNICAL = frozenset(_TECHNICAL.split())


def read_attributes(path: Path, transfer_syntax_uid: str, keywords: Collection[str]) -> dict[str, Values]:
    """Read attributes of a Part 10 file, by keyword; absent ones are left out. Raises Unreadable, OSError."""
    wanted = {tag: keyword for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}
    with path.open("rb") as file:
        offset = part10.parse_meta(file.read(part10.MAX_META)).dataset_offset
        length = os.fstat(file.fileno()).st_size - offset
        read = header.read_at(file.fileno(), offset)
        found = header.scan(read, length, transfer_syntax_uid, frozenset(wanted), frozenset())
    return {wanted[tag]: values for tag, values in found.items()}


def read_spooled(spool: Spool, instance: Instance, keywords: Collection[str]) -> dict[str, Values]:
    """Read attributes of a spooled instance. Raises Unreadable if the file is gone or cannot be read."""
    try:
        return read_attributes(spool.path_of(instance.path), instance.transfer_syntax_uid, keywords)
    except OSError as error:
        raise Unreadable(f"the file cannot be read: {error.strerror}") from None


def describe_instance(instance: Instance, attributes: dict[str, Values]) -> InstanceHeader:
    """Return what routes match of an instance of the catalog, with attributes from its file or from the catalog."""
    origin = Origin(instance.calling_ae, instance.called_ae, instance.address, instance.received_at)
    return InstanceHeader(
        instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid, origin, attributes
    )


def dump(path: Path, most: int) -> str:
    """Return the first bytes of an unreadable data set, in hexadecimal and as text, 16 a line."""
    with path.open("rb") as file:
        file.seek(part10.parse_meta(file.read(part10.MAX_META)).dataset_offset)
        data = file.read(most)
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{at:04x}  {row.hex(' '):<47}  {text}")
    return "\n".join(lines)
