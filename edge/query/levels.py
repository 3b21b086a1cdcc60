"""Query/Retrieve information models: their levels, unique keys, and the attributes that Edge knows at each. Pure.

PS3.4 sections C.3 (models), C.4 (services), C.6 (attributes). A key of a higher level is matched as well. A key that
is not known here is returned without a value, and the answer says so (status FF01).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

from edge.dicom.items import Attributes
from edge.model.dictionary import tag_for_keyword
from edge.query.matching import NO_KEYS, QUERY_LEVEL, is_universal


class Level(IntEnum):
    """The level of an entity; the word is that of (0008,0052)."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


class QueryRefused(Exception):
    """The identifier asks for what its SOP class does not allow: a status, and why, without a word of it."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status, self.comment = status, comment


#: Refused: out of resources; identifier does not match SOP class; unable to process; matching or sub-operations
#: terminated by a cancel request (PS3.4 tables C.4-1 to C.4-3).
OUT_OF_RESOURCES, IDENTIFIER_DOES_NOT_MATCH, UNABLE_TO_PROCESS, TERMINATED = 0xA700, 0xA900, 0xC001, 0xFE00

UNIQUE_KEYWORDS = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}
#: What is known at each level, by keyword.
KEYWORDS_OF = {
    Level.PATIENT: (
        "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "ResponsiblePerson",
        "PatientBirthTime", "OtherPatientIDs", "EthnicGroup", "PatientComments",
        "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances",
    ),
    Level.STUDY: (
        "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription",
        "ReferringPhysicianName", "ModalitiesInStudy", "SOPClassesInStudy",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
        "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence", "NameOfPhysiciansReadingStudy",
        "PhysiciansOfRecord", "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight",
        "RequestingPhysician", "RequestedProcedureDescription",
    ),
    Level.SERIES: (
        "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined",
        "NumberOfSeriesRelatedInstances", "SeriesDate", "SeriesTime", "Manufacturer", "InstitutionName",
        "StationName", "InstitutionalDepartmentName", "PerformingPhysicianName", "OperatorsName",
        "ManufacturerModelName", "ProtocolName", "Laterality", "FrameOfReferenceUID", "RequestAttributesSequence",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepID",
        "PerformedProcedureStepDescription",
    ),
    Level.IMAGE: (
        "SOPInstanceUID", "SOPClassUID", "InstanceNumber", "AvailableTransferSyntaxUID", "Rows", "Columns",
        "NumberOfFrames", "BitsAllocated", "ContentDate", "ContentTime", "DocumentTitle",
    ),
}  # fmt: skip
#: Known of an answer itself.
OF_ANSWER = frozenset(
    {QUERY_LEVEL, 0x00080005, 0x00080054, 0x00080056, 0x00080201}
)  # level, character set, Retrieve AE Title, Instance Availability, zone


@cache
def tag_of(keyword: str) -> int:
    found = tag_for_keyword(keyword)
    assert found is not None, keyword
    return int(found)


@cache
def known_tags(level: Level) -> frozenset[int]:
    """The tags of all keys that are known down to a level."""
    return frozenset(tag_of(each) for at in Level if at <= level for each in KEYWORDS_OF[at])


@dataclass(frozen=True, slots=True)
class LevelQuery:
    """What is asked for: a level, and keys that Edge knows; the others are `unknown`."""

    level: Level
    keys: Attributes
    unknown: tuple[int, ...] = field(default=())

    def asks(self, keyword: str) -> bool:
        """Is it to be returned or matched?"""
        return tag_of(keyword) in self.keys

    def values(self, keyword: str) -> tuple[str, ...]:
        found = self.keys.get(tag_of(keyword))
        return found.values if found is not None else ()


def read_question(identifier: Attributes, top: Level, *, is_relational: bool) -> LevelQuery:
    """Check an identifier against its information model. `top`: of the model. Raises QueryRefused."""
    word = identifier.text(QUERY_LEVEL).strip()
    level = next((each for each in Level if each.name == word and each >= top), None)
    if level is None:
        raise QueryRefused(IDENTIFIER_DOES_NOT_MATCH, "no Query/Retrieve Level of this information model")
    if not is_relational:
        for above in Level:
            unique = identifier.get(tag_of(UNIQUE_KEYWORDS[above]))
            if top <= above < level and (unique is None or is_universal(unique)):
                text = f"{UNIQUE_KEYWORDS[above]} is missing at level {word}"
                raise QueryRefused(IDENTIFIER_DOES_NOT_MATCH, text)
    known = known_tags(level)
    keys = Attributes({tag: key for tag, key in identifier.items() if tag in known})
    unknown = tuple(tag for tag in identifier if tag not in known and tag not in NO_KEYS | OF_ANSWER)
    return LevelQuery(level, keys, unknown)


def read_retrieval(identifier: Attributes, top: Level, *, is_relational: bool) -> LevelQuery:
    """The same of a C-MOVE or C-GET: only unique keys count, and that of the level names what is wanted."""
    question = read_question(identifier, top, is_relational=is_relational)
    unique = {tag_of(each): at for at, each in UNIQUE_KEYWORDS.items() if at <= question.level}
    keys = Attributes({tag: key for tag, key in question.keys.items() if tag in unique and not is_universal(key)})
    wanted = tag_of(UNIQUE_KEYWORDS[question.level])
    if wanted not in keys:
        text = f"{UNIQUE_KEYWORDS[question.level]} does not say what to retrieve"
        raise QueryRefused(IDENTIFIER_DOES_NOT_MATCH, text)
    return LevelQuery(question.level, keys)
