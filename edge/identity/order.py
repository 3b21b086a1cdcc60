"""An imaging order as HL7 brings it (ORM^O01, OMG^O19, OMI^O23), with what a worklist item needs (PS3.4 Annex K)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum

from edge.model import Priority


class OrderStatus(str, Enum):
    """The state of an order. Only an open one is on the worklist."""

    OPEN = "open"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"

    @property
    def label(self) -> str:
        """The status as people read it; programs read the value."""
        return self.value.replace("-", " ")


@dataclass(frozen=True, slots=True)
class OrderPatient:
    """The patient of an order, after merges; texts are empty where nobody knows them."""

    patient_id: str
    issuer: str = ""  # namespace of the assigning authority (CX-4.1), as IssuerOfPatientID has it
    name: str = ""  # a value of VR PN (PS3.5 section 6.2)
    birth_date: str = ""  # YYYYMMDD
    sex: str = ""  # M, F, O
    is_in_doubt: bool = False  # the character set of the texts is not known: they are shown, and not written out


@dataclass(frozen=True, slots=True)
class OrderTexts:
    """What an order says in words and numbers; empty where it does not say it."""

    accession: str = ""  # AccessionNumber
    issuer: str = ""  # of the accession number: namespace of who assigned it
    placer_number: str = ""  # ORC-2
    filler_number: str = ""  # ORC-3
    study_uid: str = ""  # StudyInstanceUID that the images are to have
    procedure_id: str = ""  # RequestedProcedureID
    procedure_code: str = ""
    procedure_scheme: str = ""  # CodingSchemeDesignator of the code
    procedure_text: str = ""  # RequestedProcedureDescription
    step_id: str = ""  # ScheduledProcedureStepID
    station_ae: str = ""  # ScheduledStationAETitle
    station_name: str = ""
    modality: str = ""
    scheduled_at: str = ""  # as DICOM's DT, local time: YYYYMMDD, or YYYYMMDDHHMM, or YYYYMMDDHHMMSS
    physician: str = ""  # ScheduledPerformingPhysicianName
    referring_physician: str = ""


#: The names of them, which the catalog's columns have, too.
ORDER_TEXTS = tuple(each.name for each in fields(OrderTexts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(OrderTexts):
    """One requested procedure."""

    patient: OrderPatient
    priority: Priority = Priority.ROUTINE
    status: OrderStatus = OrderStatus.OPEN
    is_in_doubt: bool = False  # the character set of the texts is not known
    changed_at: float = 0.0  # when the last message about it was received
    patient_key: int = field(default=0, compare=False)  # of edge.store.known_patients
    id: int = field(default=0, compare=False)  # of edge.store.orders
