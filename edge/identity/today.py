"""The demographics of today: what the systems say now of the patient and the order of an image that is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest

from edge.identity.order import Order


@dataclass(frozen=True, slots=True)
class PatientToday:
    """The patient of an image after merges. A text that nobody knows is empty, and changes nothing."""

    patient_id: str  # that leaves: the valid number of the same authority
    issuer: str  # IssuerOfPatientID; empty where the authority has no name
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    is_in_doubt: bool = False  # the character set of the name is not known: the name is not written out
    source: str = ""  # the feed that brought the last change
    changed_at: float = 0.0  # when that was received; Attribute Modification DateTime (0400,0562)
    patient_key: int = field(default=0, compare=False)  # of edge.store.known_patients: the survivor

    def attributes(self) -> dict[str, str]:
        """What is known, by keyword; a name in doubt is not written out."""
        said = {
            "PatientID": self.patient_id,
            "IssuerOfPatientID": self.issuer,
            "PatientName": "" if self.is_in_doubt else self.name,
            "PatientBirthDate": self.birth_date if len(self.birth_date) == 8 else "",
            "PatientSex": self.sex,
        }
        return {keyword: value for keyword, value in said.items() if value}


@dataclass(frozen=True, slots=True)
class DemographicsToday:
    """`patient` None: nobody knows the number, or several authorities do, or no feed is there.

    `assigned_at`: when a person decided that the image is this patient's, seconds since 1970; else 0.
    """

    patient: PatientToday | None = None
    order: Order | None = None
    assigned_at: float = 0.0


def is_as_today(keyword: str, here: str, today: str) -> bool:
    """Does an attribute of an image say what the systems say today?"""
    return is_same_name(here, today) if keyword == "PatientName" else here == today


def is_same_name(here: str, today: str) -> bool:
    """Components that are empty at the end mean nothing; groups that today's name lacks are the image's own."""
    ours, theirs = ([group.rstrip("^ ") for group in name.split("=")] for name in (here, today))
    return all(own == group for own, group in zip_longest(ours, theirs, fillvalue="") if group)
