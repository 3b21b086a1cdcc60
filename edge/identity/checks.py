"""The check of an image's identity against its order. Pure, with the reasons.

An order is found by accession number and issuer, else Study UID, else Requested Procedure ID; never by a name. Without
a feed of orders there is no result. Objects without a patient or a study take no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from edge.identity.order import Order, OrderStatus


class CheckResult(str, Enum):
    """What a check says. An order that is missing is a matter of time: [identity] orphan_after."""

    MATCHED = "matched"  # the order is known, and is of the same patient after merges
    NO_ORDER = "no-order"
    DIFFERS = "differs"  # the order is known, and is another patient's


class CheckNote(str, Enum):
    """What is worth saying beside the result; nothing is held for it."""

    ORDER_CANCELLED = "order-cancelled"
    DUPLICATE_EXAM = "duplicate-exam"
    ACCESSION_SHARED = "accession-reused"
    ISSUER_AMBIGUOUS = "issuer-ambiguous"
    ID_MALFORMED = "id-malformed"
    NAME_MALFORMED = "name-malformed"
    NO_BIRTH_DATE = "no-birth-date"

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    CheckNote.ORDER_CANCELLED: "the order is cancelled",
    CheckNote.DUPLICATE_EXAM: "the same examination has another Study UID that day",
    CheckNote.ACCESSION_SHARED: "several patients have orders of this accession number",
    CheckNote.ISSUER_AMBIGUOUS: "several authorities have this Patient ID",
    CheckNote.ID_MALFORMED: "the Patient ID is empty or has blanks",
    CheckNote.NAME_MALFORMED: "the name has no components",
    CheckNote.NO_BIRTH_DATE: "there is no birth date",
}


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """What an image says of its patient and study."""

    patient_id: str
    name: str
    birth_date: str
    accession: str
    study_uid: str
    responsible_person: str = ""  # of an animal


@dataclass(frozen=True, slots=True)
class IdentityCheck:
    """The result, the order that it was compared with, in what the patient differs, and notes."""

    result: CheckResult
    order_id: int | None = None
    differs_in: tuple[str, ...] = ()
    notes: tuple[CheckNote, ...] = ()


def check_identity(
    image: ImageIdentity,
    patients: Sequence[int],
    orders: Sequence[Order],
    differs_in: tuple[str, ...],
    *,
    is_duplicate: bool = False,
) -> IdentityCheck:
    """Compare an image with the orders that its numbers name.

    `patients`: whose its Patient ID is today, several where authorities share the number; empty: no feed knows it.
    `differs_in`: what the image and the order's patient differ in by their own words, where no feed knows the number.
    """
    notes = _notes(image, patients, orders, is_duplicate=is_duplicate)
    if not orders:
        return IdentityCheck(CheckResult.NO_ORDER, None, (), notes)
    same = [each for each in orders if each.patient_key in patients]
    if not same and not patients and not differs_in:
        same = list(orders)
    if not same:
        return IdentityCheck(CheckResult.DIFFERS, orders[0].id, differs_in or ("id",), notes)
    chosen = _choose(same, image.study_uid)
    if chosen.status is OrderStatus.CANCELLED:
        notes = (*notes, CheckNote.ORDER_CANCELLED)
    return IdentityCheck(CheckResult.MATCHED, chosen.id, (), notes)


def _choose(orders: Sequence[Order], study_uid: str) -> Order:
    """The one of this study, then one that is not cancelled, then the newest."""
    return max(
        orders, key=lambda each: (each.study_uid == study_uid, each.status is not OrderStatus.CANCELLED, each.id)
    )


def _notes(
    image: ImageIdentity, patients: Sequence[int], orders: Sequence[Order], *, is_duplicate: bool
) -> tuple[CheckNote, ...]:
    is_animal = bool(image.responsible_person)
    letters = image.name.split("=", 1)[0]
    found = {
        CheckNote.ACCESSION_SHARED: len({each.patient_key for each in orders}) > 1,
        CheckNote.ISSUER_AMBIGUOUS: len(patients) > 1,
        CheckNote.DUPLICATE_EXAM: is_duplicate,
        CheckNote.ID_MALFORMED: " " in image.patient_id.strip() or not image.patient_id.strip(),
        CheckNote.NAME_MALFORMED: not is_animal and bool(letters.strip()) and "^" not in letters,
        CheckNote.NO_BIRTH_DATE: not is_animal and not image.birth_date.strip(),
    }
    return tuple(note for note, is_so in found.items() if is_so)
