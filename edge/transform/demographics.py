"""The facts of patient and order for the copy that leaves, of what the systems say today. Pure."""

from __future__ import annotations

from edge.config.coercion import ORDER_FIELDS
from edge.identity.order import Order
from edge.identity.today import DemographicsToday
from edge.transform.corrections import CODE_FIELDS, TodayFacts

_KEYWORDS = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")


def facts_from(today: DemographicsToday) -> TodayFacts:
    """The facts that may be written out: never a text whose character set is in doubt."""
    order = {} if today.order is None else _values_of(today.order)
    ordered_at = 0.0 if today.order is None else today.order.changed_at
    patient = today.patient
    if patient is None:
        return TodayFacts(order=order, order_changed_at=ordered_at)
    said = patient.attributes()
    number, issuer, name, born, sex = (said.get(keyword, "") for keyword in _KEYWORDS)
    changed_at = max(patient.changed_at, today.assigned_at)
    return TodayFacts(number, issuer, name, born, sex, changed_at, order, ordered_at)


def _values_of(order: Order) -> dict[str, str]:
    """The values by the names of edge.config.coercion.ORDER_FIELDS."""
    found = {}
    texts = {"patient.name", "procedure_text", "referring_physician"}
    for field in set(ORDER_FIELDS.values()):
        owner, _, name = field.rpartition(".")
        value = str(getattr(order.patient if owner else order, name))
        is_in_doubt = (order.patient if owner else order).is_in_doubt
        found[field] = "" if is_in_doubt and field in texts else value
    if not order.is_in_doubt:
        found |= {name: str(getattr(order, name)) for name in CODE_FIELDS}
    return found
