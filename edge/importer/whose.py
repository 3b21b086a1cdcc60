"""The comparison of a local patient with the one that files name. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from edge.errors import EdgeError
from edge.identity.order import Order
from edge.store.imports import DiscPatient
from edge.text import fold_name


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """Whose an import is here: the patient, and the order where there is one."""

    patient_id: str
    issuer: str = ""
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""
    accession: str = ""
    study_uid: str = ""  # of the order, for what has no study yet
    description: str = ""
    procedure_id: str = ""

    def as_texts(self) -> dict[str, str]:
        return asdict(self)


def identity_of_order(order: Order) -> LocalIdentity:
    """The identity that an order gives."""
    patient = order.patient
    name = "" if patient.is_in_doubt else patient.name
    return LocalIdentity(
        patient.patient_id,
        patient.issuer,
        name,
        patient.birth_date,
        patient.sex,
        order.accession,
        order.study_uid,
        "" if order.is_in_doubt else order.procedure_text,
        order.procedure_id,
    )


def identity_of_patient(patient: DiscPatient) -> LocalIdentity:
    """The identity that a patient known here gives, without an order."""
    return LocalIdentity(patient.patient_id, patient.issuer, patient.patient_name, patient.birth_date, patient.sex)


def list_differences(disc: DiscPatient, local: LocalIdentity) -> list[str]:
    """List in what two patients differ; what one of them does not say is no difference."""
    pairs = {
        "birth date": (disc.birth_date, local.birth_date),
        "sex": (disc.sex.upper(), local.sex.upper()),
        "name": (fold_name(disc.patient_name), fold_name(local.patient_name)),
    }
    return [field for field, (there, here) in pairs.items() if there and here and there != here]


def check_patient(disc: DiscPatient, local: LocalIdentity, reason: str) -> list[str]:
    """Return in what the patients differ. Raises EdgeError where birth date or sex differ and no reason is given."""
    differences = list_differences(disc, local)
    serious = [each for each in differences if each != "name"]
    if serious and not reason.strip():
        raise EdgeError(
            f"the files name another {' and another '.join(serious)} than the local patient has: check it, or give a"
            " reason"
        )
    return differences


def complete_identity(local: LocalIdentity, disc: DiscPatient) -> LocalIdentity:
    """The identity that is written: what nobody here knows stays as the files have it."""
    return replace(
        local,
        patient_name=local.patient_name or disc.patient_name,
        birth_date=local.birth_date or disc.birth_date,
        sex=local.sex or disc.sex,
    )
